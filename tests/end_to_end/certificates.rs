//! Certificates as files that come, change and run out under a running gateway, and private keys that stay where they
//! belong.
//!
//! What clients see of a new certificate is in the stories of TLS; here it is the way of the files to the data plane.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::drills::until_stored;
use crate::kit::gateway::framegate;
use crate::kit::pki::{self, Authority, Identity, Key, Leaf};
use crate::kit::{Gateway, Setup, Variant, aloud, until, until_some};

/// The certificate's place among a gateway's files, and who makes new ones.
struct House {
    gateway: Gateway,
    authority: Authority,
    chain: PathBuf,
    key: PathBuf,
}

impl House {
    /// A gateway whose certificate `edge` covers `first.test`, its files reached as `place` says.
    fn start(place: impl FnOnce(&Path, &Identity) -> (PathBuf, PathBuf), flags: &[&str]) -> Self {
        let setup = Setup::new(Variant::Automatic).flags(flags);
        let authority = Authority::root(setup.directory(), "authority");
        let first = authority.issue(&Leaf::new("first").names(&["DNS:first.test"]));
        let (chain, key) = place(setup.directory(), &first);
        let entry = Identity { chain: chain.clone(), key: key.clone() }.entry("edge");
        let upstream = "name: secure, endpoints: [{ url: \"wss://localhost:9/\" }], \
            tls: { authorities: ours, certificate: edge }";
        let gateway = setup.certificate(&entry).authorities(&authority.entry("ours")).upstream(upstream).start();
        Self { gateway, authority, chain, key }
    }

    fn issue(&self, name: &str) -> Identity {
        self.authority.issue(&Leaf::new(name).names(&[&format!("DNS:{name}.test")]))
    }

    fn status(&self) -> serde_json::Value {
        self.gateway.verb("status", &["--json"]).json()
    }

    /// Waits until the data plane serves the certificate that covers this name; how long that took.
    #[track_caller]
    fn until_served(&self, name: &str) -> Duration {
        let begun = Instant::now();
        let wanted = format!("{name}.test");
        until(&format!("the certificate of {wanted} is served"), || {
            let status = self.status();
            let current = &status["control_plane"]["generation"];
            status["certificates"][0]["server_names"][0] == wanted.as_str()
                && status["nodes"][0]["generation"] == *current
        });
        begun.elapsed()
    }
}

/// Files under their own names, for the gateway alone.
fn plainly(directory: &Path, first: &Identity) -> (PathBuf, PathBuf) {
    let (chain, key) = (directory.join("edge.pem"), directory.join("edge.key"));
    put(&first.chain, &chain);
    put(&first.key, &key);
    (chain, key)
}

/// As certbot does: links in one directory into another.
fn by_links(directory: &Path, first: &Identity) -> (PathBuf, PathBuf) {
    fs::create_dir(directory.join("live")).unwrap();
    let (chain, key) = (directory.join("live/edge.pem"), directory.join("live/edge.key"));
    symlink(&first.chain, &chain).unwrap();
    symlink(&first.key, &key).unwrap();
    (chain, key)
}

/// As Kubernetes does: links over a link to a directory that is replaced as a whole.
fn by_directories(directory: &Path, first: &Identity) -> (PathBuf, PathBuf) {
    let secret = directory.join("secret");
    version(&secret, "..1", first);
    symlink("..1", secret.join("..data")).unwrap();
    for name in ["edge.pem", "edge.key"] {
        symlink(Path::new("..data").join(name), secret.join(name)).unwrap();
    }
    (secret.join("edge.pem"), secret.join("edge.key"))
}

fn version(secret: &Path, name: &str, identity: &Identity) {
    let directory = secret.join(name);
    fs::create_dir_all(&directory).unwrap();
    put(&identity.chain, &directory.join("edge.pem"));
    put(&identity.key, &directory.join("edge.key"));
}

/// Writes over what stands there.
fn put(from: &Path, to: &Path) {
    fs::write(to, fs::read(from).unwrap()).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Puts a new file, or a link, in place of what stands there.
fn replace(make: impl FnOnce(&Path), at: &Path) {
    let aside = at.parent().unwrap().join("aside");
    make(&aside);
    fs::rename(&aside, at).unwrap();
}

#[test]
fn certificates_that_are_replaced_are_served_however_that_is_done() {
    if !pki::is_available() {
        return;
    }
    let mut slowest = Duration::ZERO;

    let house = House::start(plainly, &[]);
    let second = house.issue("second");
    put(&second.chain, &house.chain);
    put(&second.key, &house.key);
    slowest = slowest.max(house.until_served("second"));
    let third = house.issue("third");
    replace(|aside| put(&third.key, aside), &house.key);
    replace(|aside| put(&third.chain, aside), &house.chain);
    slowest = slowest.max(house.until_served("third"));
    // In halves: what does not go together is refused, and what follows heals it.
    let fourth = house.issue("fourth");
    put(&fourth.chain, &house.chain);
    let refused = until_some("halves are refused", || {
        let diagnostics = house.status()["control_plane"]["diagnostics"].clone();
        diagnostics[0]["message"].as_str().map(str::to_owned)
    });
    assert!(refused.contains("is not that of the certificate"), "{refused}");
    assert_eq!(house.status()["certificates"][0]["server_names"][0], "third.test");
    put(&fourth.key, &house.key);
    slowest = slowest.max(house.until_served("fourth"));
    assert_eq!(house.status()["control_plane"]["diagnostics"], serde_json::json!([]));

    let house = House::start(by_links, &[]);
    let second = house.issue("second");
    for (file, link) in [(&second.chain, &house.chain), (&second.key, &house.key)] {
        replace(|aside| symlink(file, aside).unwrap(), link);
    }
    slowest = slowest.max(house.until_served("second"));
    // And within the file that the link leads to.
    let third = house.issue("third");
    put(&third.chain, &second.chain);
    put(&third.key, &second.key);
    slowest = slowest.max(house.until_served("third"));

    let house = House::start(by_directories, &[]);
    let secret = house.chain.parent().unwrap().to_owned();
    for (number, name) in [(2, "second"), (3, "third"), (4, "fourth")] {
        let next = format!("..{number}");
        version(&secret, &next, &house.issue(name));
        replace(|aside| symlink(&next, aside).unwrap(), &secret.join("..data"));
        fs::remove_dir_all(secret.join(format!("..{}", number - 1))).unwrap();
        slowest = slowest.max(house.until_served(name));
    }
    aloud(&format!("the slowest new certificate was served after {slowest:.0?}"));
}

#[test]
fn a_bad_certificate_is_refused_with_its_reason_and_the_old_one_stays() {
    if !pki::is_available() {
        return;
    }
    let house = House::start(plainly, &[]);
    let before = house.status();
    let good = fs::read(&house.chain).unwrap();
    let expired = house.authority.issue(&Leaf::new("old").valid(pki::Valid::Expired));
    let bad: [(Vec<u8>, &str); 4] = [
        (b"garbage".into(), "holds no certificate"),
        (good[..good.len() / 2].into(), "cut off"),
        (fs::read(house.authority.certificate()).unwrap(), "not that of the certificate"),
        (fs::read(&expired.chain).unwrap(), "ran out at 2020-02-01T00:00:00Z"),
    ];
    for (bytes, reason) in bad {
        fs::write(&house.chain, bytes).unwrap();
        let told = until_some(reason, || {
            let status = house.status();
            let told = status["control_plane"]["diagnostics"].to_string();
            told.contains(reason).then_some(status)
        });
        assert_eq!(told["control_plane"]["generation"], before["control_plane"]["generation"]);
        assert_eq!(told["certificates"], before["certificates"]);
        assert!(told["control_plane"]["diagnostics"][0]["line"].as_u64().unwrap() > 0, "{told}");
        until("the log says it", || house.gateway.said("controlplane").contains(reason));
        assert_eq!(house.gateway.verb("reload", &[]).code, 1);
    }
    fs::remove_file(&house.chain).unwrap();
    until("it is missed", || house.status()["control_plane"]["diagnostics"].to_string().contains("cannot be opened"));
    let next = house.issue("next");
    put(&next.key, &house.key);
    put(&next.chain, &house.chain);
    house.until_served("next");
}

#[test]
fn status_says_how_long_certificates_last_and_who_uses_them() {
    if !pki::is_available() {
        return;
    }
    let house = House::start(plainly, &[]);
    let soon = house.authority.issue(&Leaf::new("soon").names(&["DNS:soon.test", "IP:10.0.0.1"]).days(9));
    put(&soon.key, &house.key);
    put(&soon.chain, &house.chain);
    house.until_served("soon");
    let status = house.status();
    let one = &status["certificates"][0];
    assert_eq!(one["server_names"], serde_json::json!(["soon.test", "10.0.0.1"]));
    assert_eq!(one["used_by"], serde_json::json!(["upstream secure"]));
    assert!(one["days_left"] == 8 && one["issuer"].as_str().unwrap().contains("CN=authority"), "{one}");
    assert!(one["not_after"].as_str().unwrap().ends_with('Z'), "{one}");
    let authorities = &status["authorities"][0];
    assert!(authorities["name"] == "ours" && authorities["certificates"] == 1, "{authorities}");
    assert!(status["control_plane"]["warnings"].to_string().contains("in 8 days"), "{status}");
    until("the log warns", || house.gateway.said("controlplane").contains("in 8 days"));
    let table = house.gateway.verb("status", &[]).stdout;
    assert!(
        table.contains("soon.test, 10.0.0.1") && table.contains("8d") && table.contains("upstream secure"),
        "{table}"
    );
    let file = house.gateway.setup().directory().join("config.yaml");
    let validated = framegate(&["validate", file.to_str().unwrap()]);
    assert!(
        validated.code == 0 && validated.stdout.contains("warning: ") && validated.stdout.contains("in 8 days"),
        "{validated:?}"
    );
}

/// Lines of a key's base64, each long enough to be nowhere by chance.
fn secrets(key: &Path) -> Vec<String> {
    let text = fs::read_to_string(key).unwrap();
    text.lines().filter(|line| !line.starts_with('-') && line.len() > 16).map(str::to_owned).collect()
}

/// Every file below, with its text as far as it is one.
fn files(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            found.extend(files(&path));
        } else if metadata.is_file() {
            found.push((path.clone(), String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
        }
    }
    found
}

#[test]
fn no_private_key_is_printed_logged_or_left_where_others_may_read_it() {
    if !pki::is_available() {
        return;
    }
    // The log stands in a directory that is watched: each line about an event would be an event.
    let setup = Setup::new(Variant::Automatic)
        .environment("controlplane", "FRAMEGATE_LOG_LEVEL", "trace,notify=off")
        .environment("dataplane", "FRAMEGATE_LOG_LEVEL", "trace");
    let authority = Authority::root(setup.directory(), "authority");
    let first = authority.issue(&Leaf::new("first").names(&["DNS:first.test"]).key(Key::Rsa2048));
    let second = authority.issue(&Leaf::new("second").names(&["DNS:second.test"]));
    let upstream = "name: secure, endpoints: [{ url: \"wss://localhost:9/\" }], tls: { certificate: edge }";
    let mut gateway = setup.certificate(&first.entry("edge")).upstream(upstream).start();
    let secrets: Vec<_> = [&first, &second].into_iter().flat_map(|identity| secrets(&identity.key)).collect();
    assert!(secrets.len() > 20);
    let clean = |text: &str, whose: &str| {
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{whose} shows a private key");
    };

    // What is sound, what is another certificate, and what holds a key where none belongs.
    let directory = gateway.setup().directory().to_owned();
    let sound = gateway.setup().yaml();
    let key = fs::read_to_string(&second.key).unwrap();
    let chain = fs::read_to_string(&second.chain).unwrap();
    let bare = key.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    let path_of = |path: &Path| path.to_str().unwrap().to_owned();
    let (old_chain, old_key) = (path_of(&first.chain), path_of(&first.key));
    let text = |pem: &str| pem.replace('\n', "\\n");
    let documents = [
        sound.replace(&old_chain, &text(&chain)).replace(&old_key, &text(&key)),
        sound.replace(&old_chain, &path_of(&second.chain)),
        sound.replace(&old_chain, &text(&key)),
        sound.replace(&old_key, &text(&format!("# mine\n{key}"))),
        sound.replace(&old_key, &bare),
        sound.replace(&old_key, &text(&key[..key.len() - 40])),
        sound.replace("certificate: edge", &format!("pins: [\"{bare}\"]")),
        sound.replace("certificate: edge", &format!("versions: [\"{bare}\"]")),
        format!("{sound}\n{bare}"),
    ];
    for (number, document) in documents.iter().enumerate() {
        let file = directory.join(format!("document-{number}.yaml"));
        fs::write(&file, document).unwrap();
        let file = file.to_str().unwrap();
        for json in [&[][..], &["--json"]] {
            let validated = framegate(&[&["validate", file], json].concat());
            let verbs = ["diff", "apply"].map(|verb| gateway.verb(verb, &[&[file], json].concat()));
            for outcome in verbs.iter().chain([&validated]) {
                clean(&outcome.stdout, &format!("document {number}, {outcome:?}"));
                clean(&outcome.stderr, &format!("document {number}"));
            }
        }
        assert_eq!(gateway.apply(&sound).code, 0, "the first again");
    }
    let difference = gateway.verb("diff", &[directory.join("document-0.yaml").to_str().unwrap()]).stdout;
    assert!(difference.contains("~ certificate edge") && difference.contains("key: \"sha256:"), "{difference}");
    for arguments in [&["--json"][..], &[]] {
        for verb in ["status", "reload"] {
            let outcome = gateway.verb(verb, arguments);
            clean(&format!("{outcome:?}"), verb);
        }
    }
    clean(&framegate(&["schema"]).stdout, "schema");
    clean(&gateway.ask("/metrics").unwrap().1, "/metrics");
    until_stored(&gateway);

    let socket = gateway.setup().control_path().metadata().unwrap();
    assert_eq!(socket.mode() & 0o777, 0o600, "keys cross the control socket");
    let mut stored = 0;
    for (path, text) in files(&directory) {
        let is_ours =
            path.starts_with(directory.join("authority")) || path.extension().is_some_and(|end| end == "yaml");
        if is_ours {
            continue;
        }
        if path.starts_with(directory.join("state-dataplane/sections")) {
            let modes = [&path, path.parent().unwrap()].map(|path| path.metadata().unwrap().mode() & 0o777);
            assert_eq!(modes, [0o600, 0o700], "{}", path.display());
            stored += usize::from(secrets.iter().any(|secret| text.contains(secret)));
        } else {
            clean(&text, &path.display().to_string());
        }
    }
    assert_eq!(stored, 1, "the stored snapshot has its key");
    gateway.probe();
}

#[test]
fn a_node_that_stores_no_keys_waits_for_its_control_plane() {
    if !pki::is_available() {
        return;
    }
    let is_stored = |house: &House| {
        let secrets = secrets(&house.key);
        let state = house.gateway.setup().directory().join("state-dataplane");
        files(&state).iter().any(|(_, text)| secrets.iter().any(|secret| text.contains(secret)))
    };
    for (switch, is_kept) in [("on", true), ("off", false)] {
        let mut house = House::start(plainly, &["--store-keys", switch]);
        until_stored(&house.gateway);
        assert_eq!(is_stored(&house), is_kept);
        house.gateway.kill_control_plane();
        house.gateway.kill_data_plane();
        house.gateway.launch_data_plane();
        if is_kept {
            until("it serves what it stored", || house.gateway.ask("/ready").is_some_and(|(status, _)| status == 200));
            house.gateway.probe();
            continue;
        }
        let sentence = "the stored snapshot is without its secrets";
        until("it says so", || house.gateway.said("dataplane").contains(sentence));
        until("it is alive", || house.gateway.ask("/health").is_some_and(|(status, _)| status == 200));
        assert_eq!(house.gateway.ask("/ready").map(|(status, _)| status), Some(503));
        house.gateway.start_control_plane();
        until("its control plane gives it the keys", || {
            house.gateway.ask("/ready").is_some_and(|(status, _)| status == 200)
        });
        house.gateway.probe();
        until_stored(&house.gateway);
        assert!(!is_stored(&house));
        assert_eq!(house.gateway.said("dataplane").matches(sentence).count(), 1);
    }
}
