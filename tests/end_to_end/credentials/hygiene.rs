//! Nothing that was secret is written anywhere: everything that both planes say, log, count, answer and keep is searched
//! for every credential that was used, good or bad.

use std::path::Path;

use serde_json::json;

use super::{Carrier, Keys, token};
use crate::kit::gateway::framegate;
use crate::kit::people::PASSWORD;
use crate::kit::tokens::{Signer, now_s, signature, tampered};
use crate::kit::{
    EchoBackend, Gateway, IssuerServer, Outcome, Peer, People, Port, Setup, Upgrade, Variant, on_both_drivers,
    on_variant, pki, tls, until,
};

on_both_drivers!(nothing_that_was_secret_is_written_anywhere);
on_variant!(automatic_office, Automatic, what_the_office_tells_once_is_written_nowhere);

const KEY: &str = "fgk_Vt3XkqBzR8uQm5aWc7";
const WRONG_KEY: &str = "fgk_NobodysKeyOfThatName";
const WRONG_PASSWORD: &str = "wr0ng: donkey";
const OPAQUE: &str = "opaque-2YotnFZFEjr1zCsicMWpAA";
const WRONG_OPAQUE: &str = "opaque-SlAV32hkKG-unknown";
const CLIENT_SECRET: &str = "introspection-gX1fBat3bV";

/// Everything that must not be found, with what it is.
struct Secrets(Vec<(String, String)>);

impl Secrets {
    fn add(&mut self, what: &str, secret: &str) {
        self.0.push((what.into(), secret.into()));
    }

    /// A token, and its signature alone.
    fn add_token(&mut self, what: &str, token: &str) {
        self.add(what, token);
        if token.matches('.').count() == 2 && !signature(token).is_empty() {
            self.add(&format!("the signature of {what}"), signature(token));
        }
    }

    #[track_caller]
    fn expect_none(&self, place: &str, bytes: &[u8]) {
        for (what, secret) in &self.0 {
            let found = bytes.windows(secret.len()).position(|window| window == secret.as_bytes());
            let around = found.map(|at| bytes[at.saturating_sub(200)..(at + 50).min(bytes.len())].escape_ascii());
            assert!(around.is_none(), "{place} holds {what}: {}", around.expect("it was found"));
        }
    }
}

fn started(variant: Variant, keys: &Keys, issuer: &IssuerServer, secure: &Port) -> (Gateway, EchoBackend) {
    let backend = EchoBackend::start();
    let introspection = format!("client_id: gateway, client_secret: {CLIENT_SECRET}, cache: 1s");
    let people = keys
        .people()
        .introspecting_issuer("opaque", "https://opaque.test", &issuer.introspection_url(), &introspection)
        .application("subscribed", "")
        .subscriptions("subscribed", &["chat", "forwarding"])
        .key("good", "subscribed", KEY, "")
        .user("alice", "application: subscribed, certificates: [\"CN=client,O=Framegate\"]");
    let accept = "accept: [bearer, query_token, api_key, subprotocol, basic, cookie, personal_access_token, \
        client_certificate]";
    let clients = "client_certificates: { mode: optional, authorities: ours }";
    let bind = secure.address();
    let listener = format!("name: secure, bind: \"{bind}\", tls: {{ certificates: [shown], {clients} }}");
    let gateway = Setup::new(variant)
        .environment("dataplane", "FRAMEGATE_LOG_LEVEL", "trace")
        .environment("controlplane", "FRAMEGATE_LOG_LEVEL", "trace")
        .flags(&["--store-keys", "off"])
        .certificate(&pki::shared().edge.entry("shown"))
        .authorities(&format!("name: ours, certificates: \"{}\"", pki::shared().root.display()))
        .another_listener(&listener)
        .api_to("chat", &backend.url("/"), &format!("authentication: {{ {accept} }}"))
        .api_to("forwarding", &backend.url("/"), &format!("authentication: {{ {accept}, forward_credentials: true }}"))
        .people(people)
        .start();
    (gateway, backend)
}

fn nothing_that_was_secret_is_written_anywhere(variant: Variant) {
    if !pki::is_available() {
        return;
    }
    let keys = Keys::new();
    let (issuer, secure) = (IssuerServer::start(), Port::free());
    issuer.set_active(OPAQUE, json!({ "client_id": "subscribed-client", "sub": "bob", "exp": now_s() + 600 }));
    let (gateway, _backend) = started(variant, &keys, &issuer, &secure);
    let mut secrets = Secrets(Vec::new());
    for signer in [&keys.ed, &keys.es, &keys.rs] {
        private_parts(&mut secrets, signer);
    }
    for (what, secret) in [
        ("a key", KEY),
        ("an unknown key", WRONG_KEY),
        ("a password", PASSWORD),
        ("a wrong password", WRONG_PASSWORD),
        ("the hash of a password", crate::kit::people::PASSWORD_HASH),
        ("an opaque token", OPAQUE),
        ("an unknown opaque token", WRONG_OPAQUE),
        ("the secret of an OAuth2 client", CLIENT_SECRET),
    ] {
        secrets.add(what, secret);
    }
    let tokens = [
        ("a good token", token("subscribed").claim("sub", "alice").sign(&keys.ed)),
        ("a good token of ES256", token("subscribed").sign(&keys.es)),
        ("a good token of RS256", token("subscribed").sign(&keys.rs)),
        ("a tampered token", tampered(&token("subscribed").sign(&keys.ed))),
        ("a token that has run out", token("subscribed").claim("exp", now_s() - 5).sign(&keys.ed)),
        ("a token of nobody", token("subscribed").claim("iss", "https://nobody.test").sign(&keys.ed)),
        ("a token without a signature", token("subscribed").unsigned("ed")),
        ("a token of odd shape", "eyJub3QiOiJhIn0.dG9rZW4tYnV0LWEtc2VjcmV0.YWxsLXRoZS1zYW1l".to_owned()),
    ];
    tokens.iter().for_each(|(what, token)| secrets.add_token(what, token));
    let mut told = Vec::new();
    for api in ["/chat", "/forwarding"] {
        for carrier in Carrier::ALL.into_iter().filter(|carrier| *carrier != Carrier::Certificate) {
            let of_tokens = tokens.iter().map(|(_, token)| token.clone());
            let credentials: Vec<String> = match carrier {
                Carrier::KeyHeader | Carrier::KeyQuery => vec![KEY.into(), WRONG_KEY.into()],
                Carrier::Basic => vec![super::name_and_password("alice"), format!("alice:{WRONG_PASSWORD}")],
                Carrier::PersonalHeader | Carrier::PersonalCookie => {
                    of_tokens.chain([KEY.into(), WRONG_KEY.into()]).collect()
                }
                _ => of_tokens.chain([OPAQUE.into(), WRONG_OPAQUE.into()]).collect(),
            };
            for credential in credentials {
                told.extend(visit(gateway.connect(), &carrier.request(api, &credential)));
            }
        }
        let client = tls::Terms::default().identity(&pki::shared().client).client();
        told.extend(visit(client.connect(secure.address()), &Upgrade::to(api)));
    }
    // Requests that are broken beside their credential.
    for request in [
        Carrier::Bearer.request("/nowhere", &tokens[0].1),
        Carrier::QueryToken.request("/nowhere", &tokens[0].1),
        Carrier::QueryToken.request("/chat", &tokens[0].1).without("Sec-WebSocket-Key"),
        Carrier::KeyQuery.request("/chat", KEY).without("Host"),
        Carrier::Bearer.request("/chat", &tokens[0].1).with("Authorization", &format!("Bearer {}", tokens[1].1)),
        Carrier::KeyHeader.request(&format!("/chat?apikey={KEY}&apikey={WRONG_KEY}"), KEY),
    ] {
        told.extend(visit(gateway.connect(), &request));
    }
    let revoked = gateway.setup().yaml_with_people(&revoked_people(&keys, &issuer));
    let outcomes = [gateway.verb("diff", &[&written(&gateway, &revoked), "--json"]), gateway.apply(&revoked)];
    let outcomes = outcomes.into_iter().chain([gateway.verb("status", &[]), gateway.verb("status", &["--json"])]);
    for outcome in outcomes {
        told.extend([outcome.stdout.into_bytes(), outcome.stderr.into_bytes()]);
    }
    for target in ["/metrics", "/ready", "/health", "/status", "/nothing"] {
        told.extend(gateway.ask(target).map(|(_, body)| body.into_bytes()));
    }
    until("everything is written down", || gateway.log_lines().len() > 100);
    secrets.expect_none("an answer", &told.concat());
    search(&secrets, gateway.setup().directory());
}

/// One visit: whatever the gateway says to the client, that is not the endpoint's.
fn visit(mut client: Peer, request: &Upgrade) -> Option<Vec<u8>> {
    client.send(&request.encode());
    let head = client.head();
    let body = if head.status() == 101 { Vec::new() } else { client.rest() };
    Some([head.bytes, body].concat())
}

/// A private key: its PEM's lines, whichever of them could be seen.
fn private_parts(secrets: &mut Secrets, signer: &Signer) {
    let pem = signer.private_pem();
    let lines: Vec<_> = pem.lines().filter(|line| line.len() > 40 && !line.starts_with("---")).collect();
    lines.iter().for_each(|line| secrets.add(&format!("the private key of {}", signer.key_id), line));
}

fn revoked_people(keys: &Keys, issuer: &IssuerServer) -> People {
    keys.people()
        .introspecting_issuer("opaque", "https://opaque.test", &issuer.introspection_url(), "")
        .application("subscribed", "")
        .subscriptions("subscribed", &["chat"])
        .revoked("user:alice", "")
        .revoked("key:good", "")
}

fn written(gateway: &Gateway, yaml: &str) -> String {
    let path = gateway.setup().directory().join("config-next.yaml");
    std::fs::write(&path, yaml).expect("a file can be written");
    path.to_str().expect("a path in UTF-8").into()
}

/// Every file that the planes have written; what the operator wrote is theirs to keep.
fn search(secrets: &Secrets, directory: &Path) {
    let mut searched = 0;
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a directory can be read").flatten() {
            let path = entry.path();
            let is_operators = path.extension().is_some_and(|end| end == "yaml");
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() && !is_operators {
                let bytes = std::fs::read(&path).expect("a file can be read");
                // A snapshot has hashes of passwords, which whoever stores it must be able to compare with.
                let holds_hashes =
                    path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("state-"));
                let kept = |(what, _): &&(String, String)| !(holds_hashes && what.starts_with("the hash"));
                let wanted = Secrets(secrets.0.iter().filter(kept).cloned().collect());
                wanted.expect_none(&path.display().to_string(), &bytes);
                searched += 1;
            }
        }
    }
    assert!(searched >= 5, "{searched} files");
}

/// A control plane whose admin API and token endpoint are used from a shell.
struct Office {
    gateway: Gateway,
    endpoint: String,
    /// What the shell keeps to itself.
    pockets: tempfile::TempDir,
    told: Vec<u8>,
}

impl Office {
    fn open(variant: Variant) -> (Self, EchoBackend) {
        let (backend, port) = (EchoBackend::start(), Port::free());
        let endpoint = format!("http://{}", port.address());
        let gateway = Setup::new(variant)
            .environment("dataplane", "FRAMEGATE_LOG_LEVEL", "trace")
            .environment("controlplane", "FRAMEGATE_LOG_LEVEL", "trace")
            .document(&format!("token_endpoint: {{ bind: \"{}\", issuer: \"{endpoint}\" }}\n", port.address()))
            .api_to("chat", &backend.url("/"), "authentication: { accept: [bearer, api_key, basic] }")
            .start();
        let pockets = tempfile::tempdir().expect("a directory");
        (Self { gateway, endpoint, pockets, told: Vec::new() }, backend)
    }

    /// Runs the program with words, the last of which says which control plane is meant.
    fn ask(&self, words: &str) -> Outcome {
        let control = self.gateway.setup().control_path();
        let control = control.to_str().expect("a path in UTF-8");
        let words =
            words.split(' ').map(|word| word.strip_prefix('@').map_or(word.to_owned(), |name| self.pocket(name)));
        let words: Vec<String> = words.collect();
        let of_endpoint = words[0] == "token" || words.contains(&"hash".to_owned());
        let of_control = if of_endpoint { vec![] } else { vec!["--control".to_owned(), control.to_owned()] };
        let all: Vec<String> = [words, of_control].concat();
        framegate(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What makes a secret: its one answer, of which nothing is searched.
    #[track_caller]
    fn make(&self, words: &str, member: &str) -> String {
        let outcome = self.ask(words);
        assert_eq!(outcome.code, 0, "{words}: {outcome:?}");
        let secret = outcome.json()[member].as_str().unwrap_or_else(|| panic!("no {member}: {outcome:?}")).to_owned();
        assert!(secret.len() > 20, "{outcome:?}");
        secret
    }

    /// Whatever else is said, good or bad.
    fn hear(&mut self, words: &str) {
        let outcome = self.ask(words);
        self.told.extend([outcome.stdout, outcome.stderr].concat().into_bytes());
    }

    /// The path of what is kept under this name.
    fn pocket(&self, name: &str) -> String {
        self.pockets.path().join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    fn keep(&self, name: &str, secret: &str) {
        std::fs::write(self.pocket(name), format!("{secret}\n")).expect("a file can be written");
    }
}

fn what_the_office_tells_once_is_written_nowhere(variant: Variant) {
    let (mut office, _backend) = Office::open(variant);
    let mut secrets = Secrets(Vec::new());
    for (name, secret) in [("password", "tr0ub4dor & 3 of alice"), ("wrong", "fgs_this-is-not-the-secret-of-anybody")] {
        office.keep(name, secret);
        secrets.add(name, secret);
    }
    for words in ["app create mobile --owner ann", "subscription create mobile chat"] {
        office.hear(words);
    }
    let key = office.make("key create mobile-1 --application mobile --json", "key");
    let client =
        "app client create mobile --id mobile-app --grant client_credentials --grant password --grant refresh_token";
    let secret = office.make(&format!("{client} --json"), "client_secret");
    office.keep("secret", &secret);
    secrets.add("an API key", &key);
    secrets.add("a client's secret", &secret);
    office.hear("user create alice --application mobile --password-file @password");
    let endpoint = office.endpoint.clone();
    let get = format!("token get --endpoint {endpoint} --client mobile-app --secret-file");
    let of_user = format!("{get} @secret --user alice --password-file @password --json");
    let (mut token, mut refresh) = (String::new(), String::new());
    until("the token endpoint has its key", || office.ask(&of_user).code == 0);
    for (name, words) in [("client", format!("{get} @secret --json")), ("user", of_user)] {
        let outcome = office.ask(&words);
        token = outcome.json()["access_token"].as_str().unwrap_or_else(|| panic!("{outcome:?}")).to_owned();
        secrets.add_token(&format!("a token of a {name}"), &token);
        if let Some(text) = outcome.json()["refresh_token"].as_str() {
            refresh = text.to_owned();
            secrets.add(&format!("a refresh token of a {name}"), text);
        }
    }
    assert!(!refresh.is_empty());
    office.keep("refresh", &refresh);
    let refreshed = office.ask(&format!("{get} @secret --refresh-file @refresh --json"));
    let renewed = refreshed.json();
    secrets.add_token("a token that was renewed", renewed["access_token"].as_str().expect("a token"));
    secrets.add("the next refresh token", renewed["refresh_token"].as_str().expect("a refresh token"));
    // In use, and at the doors.
    for request in [
        Upgrade::to("/chat").with("apikey", &key),
        Carrier::Bearer.request("/chat", &token),
        Carrier::Basic.request("/chat", "alice:tr0ub4dor & 3 of alice"),
        Carrier::Basic.request("/chat", &format!("alice:{key}")),
        Carrier::Bearer.request("/chat", &tampered(&token)),
        Upgrade::to("/chat").with("apikey", &secret),
    ] {
        let told = visit(office.gateway.connect(), &request);
        office.told.extend(told.into_iter().flatten());
    }
    for words in [
        &format!("{get} @wrong --json"),
        &format!("{get} @secret --user alice --password-file @wrong"),
        // A second time: whoever has it, has a copy.
        &format!("{get} @secret --refresh-file @refresh --json"),
        "key create mobile-1 --application mobile",
        "key create mobile-2 --application nobody",
        "key list --json",
        "key show mobile-1 --json",
        "key show mobile-1",
        "app show mobile --json",
        "app client list mobile --json",
        "user show alice --json",
        "user list",
        "user create alice --password-file @password",
        "revoke user:alice --reason gone",
        "revoke key:mobile-1 --json",
        "revoke list --json",
        "status --json",
        "status",
    ] {
        office.hear(words);
    }
    for target in ["/metrics", "/ready"] {
        let (_, body) = office.gateway.ask(target).expect("the operator's listener answers");
        office.told.extend(body.into_bytes());
    }
    until("the revocations have ended the sessions, and that is written down", || {
        office.gateway.log_lines().iter().filter(|line| line["event"] != "close").count() >= 6
    });
    secrets.expect_none("an answer", &office.told);
    search(&secrets, office.gateway.setup().directory());
}
