//! The control plane's own secrets: what it makes, tells once, and must never say again; and what it is shown by mistake.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use super::super::Carrier;
use super::{expect_owners_only, search, visit};
use crate::kit::gateway::FRAMEGATE;
use crate::kit::people::sha256;
use crate::kit::tokens::tampered;
use crate::kit::{
    Admin, DEADLINE, EchoBackend, Gateway, Outcome, Port, Secrets, Setup, Upgrade, Variant, on_variant, until,
};

on_variant!(automatic, Automatic, what_the_office_tells_once_is_written_nowhere);

const PASSWORD: &str = "tr0ub4dor & 3 of alice";
const WRONG_SECRET: &str = "fgs_this-is-not-the-secret-of-anybody";
const ADMIN_TOKEN: &str = "admin-token-of-ann-Zk3";
const WRONG_ADMIN_TOKEN: &str = "admin-token-of-nobody-Zk4";
const SIGNING_KEY: &str = "the gateway's own signing key";

/// A control plane whose admin API and token endpoint are used from a shell, and by hand.
struct Office {
    gateway: Gateway,
    endpoint: Port,
    admin: Port,
    /// What the shell keeps to itself.
    pockets: tempfile::TempDir,
    secrets: Secrets,
    told: Vec<u8>,
    _backend: EchoBackend,
}

impl Office {
    fn open(variant: Variant) -> Self {
        let (backend, endpoint, admin) = (EchoBackend::start(), Port::free(), Port::free());
        let pockets = tempfile::tempdir().expect("a directory");
        let tokens = pockets.path().join("admin-tokens");
        std::fs::write(&tokens, format!("operator {} ann\n", sha256(ADMIN_TOKEN))).expect("a file can be written");
        let bind = endpoint.address();
        let gateway = Setup::new(variant)
            .environment("dataplane", "FRAMEGATE_LOG_LEVEL", "trace")
            .environment("controlplane", "FRAMEGATE_LOG_LEVEL", "trace")
            .environment("controlplane", "FRAMEGATE_ADMIN_TCP", &admin.address().to_string())
            .environment("controlplane", "FRAMEGATE_ADMIN_TOKENS", tokens.to_str().expect("a path in UTF-8"))
            .document(&format!("token_endpoint: {{ bind: \"{bind}\", issuer: \"http://{bind}\" }}\n"))
            .api_to("chat", &backend.url("/"), "authentication: { accept: [bearer, api_key, basic] }")
            .start();
        let mut secrets = Secrets::new();
        for (what, secret) in [
            ("a password", PASSWORD),
            ("a wrong secret", WRONG_SECRET),
            ("an admin token", ADMIN_TOKEN),
            ("a wrong admin token", WRONG_ADMIN_TOKEN),
        ] {
            secrets.add(what, secret);
        }
        Self { gateway, endpoint, admin, pockets, secrets, told: Vec::new(), _backend: backend }
    }

    /// Runs the program with words, the last of which says which control plane is meant.
    fn ask(&self, words: &str, input: &str) -> Outcome {
        let control = self.gateway.setup().control_path();
        let words = words.split(' ');
        let words = words.map(|word| word.strip_prefix('@').map_or(word.to_owned(), |name| self.pocket(name)));
        let mut command = Command::new(FRAMEGATE);
        command.args(words).env("FRAMEGATE_CONTROL", control);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the executable runs");
        // Who says no at once does not listen.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output in UTF-8");
        Outcome { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// What makes a secret: its one answer, of which nothing is searched.
    #[track_caller]
    fn make(&self, words: &str, member: &str) -> String {
        let outcome = self.ask(words, "");
        assert_eq!(outcome.code, 0, "{words}: {outcome:?}");
        let secret = outcome.json()[member].as_str().unwrap_or_else(|| panic!("no {member}: {outcome:?}")).to_owned();
        assert!(secret.len() > 20, "{outcome:?}");
        secret
    }

    /// Whatever else is said, good or bad.
    fn hear(&mut self, words: &str, input: &str) {
        let outcome = self.ask(words, input);
        self.told.extend([outcome.stdout, outcome.stderr].concat().into_bytes());
    }

    /// The path of what is kept under this name.
    fn pocket(&self, name: &str) -> String {
        self.pockets.path().join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    fn keep(&self, name: &str, secret: &str) {
        std::fs::write(self.pocket(name), format!("{secret}\n")).expect("a file can be written");
    }

    /// The private half of what tokens are signed with, as it is kept.
    #[track_caller]
    fn signing_key(&self) -> Vec<u8> {
        let path = self.gateway.setup().directory().join("state-controlplane/catalogue.db");
        let store = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database");
        store.query_row("SELECT private FROM signing_keys", [], |row| row.get(0)).expect("one signing key")
    }
}

/// What clients hold in the end.
struct Made {
    key: String,
    secret: String,
    token: String,
    refresh: String,
}

/// An application with a client, a key and a user, and tokens for them.
fn make_everything(office: &mut Office) -> Made {
    for (name, secret) in [("password", PASSWORD), ("wrong", WRONG_SECRET)] {
        office.keep(name, secret);
    }
    for words in ["app create mobile --owner ann", "subscription create mobile chat"] {
        office.hear(words, "");
    }
    let key = office.make("key create mobile-1 --application mobile --json", "key");
    let client =
        "app client create mobile --id mobile-app --grant client_credentials --grant password --grant refresh_token";
    let secret = office.make(&format!("{client} --json"), "client_secret");
    office.keep("secret", &secret);
    office.secrets.add("an API key", &key);
    office.secrets.add("a client's secret", &secret);
    office.hear("user create alice --application mobile --password-file @password", "");
    let get = get(office);
    let of_user = format!("{get} @secret --user alice --password-file @password --json");
    until("the token endpoint has its key", || office.ask(&of_user, "").code == 0);
    let signing_key = office.signing_key();
    office.secrets.add_private_key(SIGNING_KEY, &signing_key);
    let (mut token, mut refresh) = (String::new(), String::new());
    for (name, words) in [("client", format!("{get} @secret --json")), ("user", of_user)] {
        let outcome = office.ask(&words, "");
        token = outcome.json()["access_token"].as_str().unwrap_or_else(|| panic!("{outcome:?}")).to_owned();
        office.secrets.add_token(&format!("a token of a {name}"), &token);
        if let Some(text) = outcome.json()["refresh_token"].as_str() {
            refresh = text.to_owned();
            office.secrets.add(&format!("a refresh token of a {name}"), text);
        }
    }
    assert!(!refresh.is_empty());
    office.keep("refresh", &refresh);
    let renewed = office.ask(&format!("{get} @secret --refresh-file @refresh --json"), "").json();
    let text = |member: &str| renewed[member].as_str().unwrap_or_else(|| panic!("no {member}: {renewed}"));
    office.secrets.add_token("a token that was renewed", text("access_token"));
    office.secrets.add("the next refresh token", text("refresh_token"));
    Made { key, secret, token, refresh }
}

fn get(office: &Office) -> String {
    format!("token get --endpoint http://{} --client mobile-app --secret-file", office.endpoint.address())
}

/// Words of a shell that say no, that list, and that take away.
fn hear_the_shell(office: &mut Office, made: &Made) {
    let get = get(office);
    for words in [
        &format!("{get} @wrong --json"),
        &format!("{get} @secret --user alice --password-file @wrong"),
        // A second time: whoever has it, has a copy.
        &format!("{get} @secret --refresh-file @refresh --json"),
        "key create mobile-1 --application mobile",
        "key create mobile-2 --application nobody",
        "api list --json",
        "subscription list",
        "key list --json",
        "key show mobile-1 --json",
        "key show mobile-1",
        "app list",
        "app show mobile --json",
        "app client list mobile --json",
        "user show alice --json",
        "user list",
        "user create alice --password-file @password",
        "status --json",
        "status",
    ] {
        office.hear(words, "");
    }
    office.hear("token inspect", &made.token);
    office.hear("token inspect --json", &tampered(&made.token));
    office.hear("token inspect", &made.refresh);
    office.hear(&format!("token inspect --issuer http://{}", office.endpoint.address()), &tampered(&made.token));
    let line = json!({ "name": "imported", "application": "mobile", "sha256": made.key });
    office.hear("key import -", &format!("{line}\n{{\"sha256\": \"{}\"\n", made.key));
    for words in ["revoke user:alice --reason gone", "revoke key:mobile-1 --json", "revoke list --json"] {
        office.hear(words, "");
    }
    let revoke = format!("token revoke --endpoint http://{} --client mobile-app", office.endpoint.address());
    office.hear(&format!("{revoke} --secret-file @wrong"), &made.token);
    office.hear(&format!("{revoke} --secret-file @secret"), &made.token);
}

/// The admin API is shown secrets where their hashes should stand, in what is no JSON, and by those who may not come in.
fn hear_the_admin_api(office: &mut Office, made: &Made) {
    let port = Admin::port(office.admin.address());
    let ann = port.clone().token(ADMIN_TOKEN);
    let hear = |office: &mut Office, body: &str, head: &str| office.told.extend([head, body].concat().into_bytes());
    for stranger in [&port, &port.clone().token(WRONG_ADMIN_TOKEN), &port.clone().token(&made.token)] {
        let reply = stranger.get("/keys");
        assert_eq!(reply.status, 401);
        hear(office, &reply.body, &reply.head);
    }
    for (target, body) in [
        ("/keys", json!({ "name": "k", "application": "mobile", "sha256": made.key })),
        ("/keys", json!({ "name": "k", "application": "mobile", "key": made.key })),
        ("/users", json!({ "name": "bob", "password": PASSWORD })),
        ("/users", json!({ "name": "bob", "new_password": [PASSWORD] })),
        ("/users", json!({ "name": "bob", "new_password": PASSWORD.repeat(400) })),
        ("/users", json!({ "name": "bob", "new_password": format!("{PASSWORD}\n") })),
        ("/applications", json!({ "name": "a", "clients": [{ "id": "x", "secret": made.secret }] })),
        ("/revocations", json!({ "revoked": format!("opaque:{}", made.token) })),
        ("/revocations", json!({ "revoked": made.refresh })),
        ("/batch", json!({ "changes": [{ "kind": "user", "put": { "name": "bob", "password": PASSWORD } }] })),
    ] {
        let reply = ann.post(target, &body);
        assert!((400..500).contains(&reply.status), "{target} {body}: {reply:?}");
        hear(office, &reply.body, &reply.head);
    }
    let broken = ann.ask(
        "POST",
        "/users",
        &[("Content-Type", "application/json")],
        Some(&format!("{{\"new_password\": \"{PASSWORD}")),
    );
    assert_eq!(broken.status, 400, "{broken:?}");
    hear(office, &broken.body, &broken.head);
    let set = ann.send("PATCH", "/users/alice", &[], &json!({ "new_password": PASSWORD }));
    assert_eq!(set.status, 200, "{set:?}");
    hear(office, &set.body, &set.head);
    for target in [
        "/keys",
        "/users",
        "/applications",
        "/subscriptions",
        "/revocations",
        "/apis",
        "/status",
        "/generation",
        "/nothing",
    ] {
        let reply = ann.get(target);
        hear(office, &reply.body, &reply.head);
    }
}

/// The token endpoint is asked in every wrong way, with what is right in it.
fn hear_the_token_endpoint(office: &mut Office, made: &Made) {
    let Made { secret, token, refresh, key } = made;
    let client = format!("client_id=mobile-app&client_secret={secret}");
    let password = "tr0ub4dor+%26+3+of+alice";
    for (target, form) in [
        ("token", format!("grant_type=password&{client}&client_secret={secret}&username=alice&password={password}")),
        ("token", format!("grant_type=password&{client}&username=nobody&password={password}")),
        ("token", format!("grant_type=password&{client}&username=alice&password={password}&scope=of+things+unheard")),
        ("token", format!("grant_type=authorization_code&{client}&code={key}")),
        ("token", format!("grant_type=refresh_token&{client}&refresh_token={token}")),
        ("token", format!("grant_type=refresh_token&client_id=nobody&client_secret={secret}&refresh_token={refresh}")),
        ("token", format!("grant_type={password}&{client}&%zz={secret}")),
        ("introspect", format!("{client}&token={token}")),
        ("introspect", format!("{client}&token={refresh}")),
        ("introspect", format!("client_id=mobile-app&client_secret={WRONG_SECRET}&token={token}")),
        ("revoke", format!("client_id=mobile-app&client_secret={WRONG_SECRET}&token={refresh}")),
        ("revoke", format!("{client}&token_type_hint={secret}&token={key}")),
        ("nothing", client.clone()),
    ] {
        let head = format!("POST /oauth2/{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
        let length = format!("Content-Length: {}\r\n\r\n{form}", form.len());
        for kind in [kind, "Content-Type: text/plain\r\n"] {
            office.told.extend(knock(office.endpoint.address(), &format!("{head}{kind}{length}")));
        }
    }
    for head in [
        format!("GET /oauth2/token?{client} HTTP/1.1\r\nHost: x\r\n"),
        format!("GET /{secret} HTTP/1.1\r\nHost: x\r\n"),
        format!("POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nAuthorization: Bearer {token}\r\n"),
        format!("POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nAuthorization: Basic {secret}\r\n"),
        format!("GET /oauth2/jwks HTTP/1.1\r\nHost: x\r\nAuthorization: {secret}\r\n"),
        "GET /.well-known/oauth-authorization-server HTTP/1.1\r\nHost: x\r\n".into(),
        format!("{secret} {token}\r\n"),
    ] {
        office.told.extend(knock(office.endpoint.address(), &format!("{head}Connection: close\r\n\r\n")));
    }
}

/// What is answered to a request as it is.
fn knock(address: SocketAddr, request: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the endpoint accepts connections");
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.is_empty(), "{request} has no answer");
    answer
}

fn what_the_office_tells_once_is_written_nowhere(variant: Variant) {
    let mut office = Office::open(variant);
    let made = make_everything(&mut office);
    // In use, and at the doors.
    for request in [
        Upgrade::to("/chat").with("apikey", &made.key),
        Carrier::Bearer.request("/chat", &made.token),
        Carrier::Basic.request("/chat", &format!("alice:{PASSWORD}")),
        Carrier::Basic.request("/chat", &format!("alice:{}", made.key)),
        Carrier::Bearer.request("/chat", &tampered(&made.token)),
        Upgrade::to("/chat").with("apikey", &made.secret),
    ] {
        let told = visit(office.gateway.connect(), &request);
        office.told.extend(told.into_iter().flatten());
    }
    hear_the_admin_api(&mut office, &made);
    hear_the_token_endpoint(&mut office, &made);
    hear_the_shell(&mut office, &made);
    for target in ["/metrics", "/ready"] {
        let (_, body) = office.gateway.ask(target).expect("the operator's listener answers");
        office.told.extend(body.into_bytes());
    }
    until("the revocations have ended the sessions, and that is written down", || {
        office.gateway.log_lines().iter().filter(|line| line["event"] != "close").count() >= 6
    });
    // What it has kept is read again.
    office.gateway.kill_control_plane();
    office.gateway.start_control_plane();
    until("the control plane is up again", || office.ask("status", "").code == 0);
    office.hear("status --json", "");
    office.hear("revoke list --json", "");

    office.secrets.expect_none("an answer", &office.told);
    let found = search(&office.secrets, office.gateway.setup().directory());
    found.expect_files(&["controlplane", "dataplane", "sessions.log", "state-dataplane/current", "catalogue.db"]);
    // The key that tokens are signed with must be kept to sign the next ones: in the database, which is its owner's only.
    assert!(found.findings.iter().any(|(_, what)| what == SIGNING_KEY), "{found:#?}");
    for (path, what) in &found.findings {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        assert!(what == SIGNING_KEY && name.starts_with("catalogue.db"), "{} has {what}", path.display());
    }
    for path in found.files.iter().filter(|path| path.to_string_lossy().contains("/state-controlplane/")) {
        expect_owners_only(path);
    }
}
