//! `framegate convert keystore`: stores that openssl makes, what becomes of them, and what is refused.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::kit::Outcome;
use crate::kit::gateway::framegate;
use crate::kit::pki::{self, Authority, Leaf};

const PASSWORD: &str = "correct horse\n";

struct Bench {
    directory: TempDir,
}

impl Bench {
    /// A store with a key, its chain, and the root; `options` are openssl's.
    fn with_store(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::root(directory.path(), "root");
        let middle = authority.intermediate("middle");
        let edge = middle.issue(&Leaf::new("edge").names(&["DNS:edge.example"]));
        let bench = Self { directory };
        std::fs::write(bench.path("password"), PASSWORD).expect("a file can be written");
        let root = authority.certificate();
        let files = ["-inkey", text(&edge.key), "-in", text(&edge.chain), "-certfile", text(&root), "-name", "Edge 1"];
        bench.export(&[&files, options].concat(), "store.p12");
        bench
    }

    fn export(&self, options: &[&str], name: &str) {
        let password = format!("file:{}", self.path("password").display());
        let ends = ["-passout", &password, "-out", text(&self.path(name))].map(str::to_owned);
        let output = Command::new("openssl").args(["pkcs12", "-export"]).args(options).args(ends).output();
        let output = output.expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn convert(&self, store: &str, more: &[&str]) -> Outcome {
        let (store, password, out) = (self.path(store), self.path("password"), self.path("out"));
        let fixed = ["convert", "keystore", text(&store), "--password-file", text(&password), "--out", text(&out)];
        framegate(&[&fixed[..], more].concat())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn certificates(path: &Path) -> usize {
    std::fs::read_to_string(path).expect("a PEM file").matches("BEGIN CERTIFICATE").count()
}

#[test]
fn a_key_store_becomes_pem_files_that_a_configuration_can_name() {
    if !pki::is_available() {
        return;
    }
    for options in [&[][..], &["-legacy"]] {
        let bench = Bench::with_store(options);
        let told = bench.convert("store.p12", &[]);
        assert_eq!(told.code, 0, "{told:?}");
        assert!(told.stdout.contains("certificates:\n  - { name: edge-1, chain: "), "{told:?}");
        assert!(told.stdout.contains("private key"), "{told:?}");
        let [chain, key, authorities] =
            ["edge-1.pem", "edge-1.key", "edge-1-authorities.pem"].map(|name| bench.path("out").join(name));
        assert_eq!((certificates(&chain), certificates(&authorities)), (2, 1));
        assert_eq!(key.metadata().expect("a key").permissions().mode() & 0o777, 0o600);
        let read = |arguments: &[&str]| Command::new("openssl").args(arguments).output().expect("openssl runs").stdout;
        let of_key = read(&["pkey", "-in", text(&key), "-pubout"]);
        assert_eq!(of_key, read(&["x509", "-in", text(&chain), "-noout", "-pubkey"]));
        assert!(!of_key.is_empty());

        // What is there is not touched, unless that is asked for.
        let again = bench.convert("store.p12", &[]);
        assert_eq!((again.code, again.stderr.contains("--force")), (2, true), "{again:?}");
        let forced = bench.convert("store.p12", &["--force", "--json"]);
        assert_eq!(forced.code, 0, "{forced:?}");
        assert_eq!(forced.json()["written"][1]["what"], "private key");
        assert_eq!(key.metadata().expect("a key").permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_trust_store_becomes_authorities() {
    if !pki::is_available() {
        return;
    }
    let bench = Bench::with_store(&[]);
    let roots = bench.path("root/ca.pem");
    bench.export(&["-nokeys", "-in", text(&roots)], "trust.p12");
    let told = bench.convert("trust.p12", &[]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("authorities:\n  - { name: trust, certificates: "), "{told:?}");
    assert_eq!(certificates(&bench.path("out/trust-authorities.pem")), 1);
    assert!(!bench.path("out/trust.key").exists());
}

#[test]
fn what_cannot_be_converted_is_explained_and_leaves_nothing_behind() {
    if !pki::is_available() {
        return;
    }
    let bench = Bench::with_store(&[]);
    std::fs::write(bench.path("nonsense"), "not a store").expect("a file can be written");
    std::fs::write(bench.path("wrong"), "wrong\n").expect("a file can be written");
    let wrong = bench.path("wrong");
    let cases = [
        ("nonsense", &[][..], 1, "neither PKCS#12 nor JKS"),
        ("nowhere", &[], 2, "cannot be read"),
        ("store.p12", &["--alias", "nobody"], 1, "the store has no entry"),
    ];
    for (store, more, code, words) in cases {
        let told = bench.convert(store, more);
        assert_eq!((told.code, told.stderr.contains(words)), (code, true), "{told:?}");
    }
    let store = bench.path("store.p12");
    let told = framegate(&["convert", "keystore", text(&store), "--password-file", text(&wrong)]);
    assert_eq!((told.code, told.stderr.contains("the password is wrong")), (1, true), "{told:?}");
    let told = framegate(&["convert", "keystore", text(&store)]);
    assert_eq!((told.code, told.stderr.contains("--password-file")), (2, true), "{told:?}");
    assert!(!bench.path("out").exists());

    // Java's, with two keys.
    let java = Path::new(env!("CARGO_MANIFEST_DIR")).join("controlplane/src/keystore/tests/store-of-java.p12");
    std::fs::write(bench.path("password"), "store-password").expect("a file can be written");
    std::fs::copy(java, bench.path("java.p12")).expect("a file can be copied");
    let told = bench.convert("java.p12", &[]);
    assert_eq!((told.code, told.stderr.contains("chat") && told.stderr.contains("--alias")), (1, true), "{told:?}");
    assert_eq!(bench.convert("java.p12", &["--alias", "Chat"]).code, 0);
    assert!(bench.path("out/chat.key").exists() && bench.path("out/chat-authorities.pem").exists());
}
