//! Stores that openssl makes here, and two that Java's keytool made once: `tests/store.jks` with a key `edge` (password
//! `key-password`) and a trusted certificate `partner`, and `tests/store-of-java.p12` with keys `edge` and `chat` and the
//! same certificate. Both have the password `store-password`; they were made with `keytool -genkeypair -storetype JKS`
//! (or PKCS12) `-keyalg EC -groupname secp256r1 -validity 36500`, and `keytool -importcert`.

use std::path::PathBuf;
use std::process::Command;

use super::*;

const PASSWORD: &str = "correct horse";

struct Bench(tempfile::TempDir);

impl Bench {
    /// An authority, one below it, and a leaf, each with its key.
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=root \
            -addext basicConstraints=critical,CA:TRUE -keyout root.key -out root.pem",
        );
        this.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=middle \
            -CA root.pem -CAkey root.key -addext basicConstraints=critical,CA:TRUE -keyout middle.key -out middle.pem",
        );
        this.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=edge.example \
            -CA middle.pem -CAkey middle.key -addext basicConstraints=critical,CA:FALSE -keyout edge.key -out edge.pem",
        );
        let above = [this.file("middle.pem"), this.file("root.pem")].map(|path| std::fs::read(path).unwrap()).concat();
        std::fs::write(this.file("above.pem"), above).unwrap();
        std::fs::write(this.file("password"), PASSWORD).unwrap();
        this
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(self.0.path()).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn export(&self, arguments: &str) -> Vec<u8> {
        self.openssl(&format!("pkcs12 -export {arguments} -passout file:password -out store.p12"));
        std::fs::read(self.file("store.p12")).unwrap()
    }
}

fn subject(certificate: &CertificateDer<'_>) -> String {
    X509Certificate::from_der(certificate).unwrap().1.subject().to_string()
}

#[track_caller]
fn is_edge(store: &Keystore, alias: &str) {
    let [key] = &store.keys[..] else { panic!("{store:?}") };
    assert_eq!(key.alias, alias);
    assert_eq!(key.chain.iter().map(subject).collect::<Vec<_>>(), ["CN=edge.example", "CN=middle"]);
    assert_eq!(store.authorities.iter().map(|one| subject(&one.certificate)).collect::<Vec<_>>(), ["CN=root"]);
}

#[test]
fn stores_of_openssl_are_read_modern_and_legacy_ones() {
    let bench = Bench::new();
    let all = "-inkey edge.key -in edge.pem -certfile above.pem -name edge";
    for more in ["", "-legacy"] {
        let bytes = bench.export(&format!("{all} {more}"));
        is_edge(&Keystore::read(&bytes, PASSWORD, PASSWORD).unwrap(), "edge");
    }
}

#[test]
fn a_wrong_password_says_so() {
    let bench = Bench::new();
    for more in ["", "-legacy"] {
        let bytes = bench.export(&format!("-inkey edge.key -in edge.pem {more}"));
        let error = Keystore::read(&bytes, "wrong", "wrong").unwrap_err();
        assert!(matches!(error, KeystoreError::Password), "{more}: {error:?}");
    }
    let error = Keystore::read(include_bytes!("tests/store.jks"), "wrong", "wrong").unwrap_err();
    assert!(matches!(error, KeystoreError::Password), "{error:?}");
}

#[test]
fn a_trust_store_has_authorities_only() {
    let bench = Bench::new();
    let bytes = bench.export("-nokeys -in above.pem");
    let store = Keystore::read(&bytes, PASSWORD, PASSWORD).unwrap();
    assert!(store.keys.is_empty());
    let subjects: Vec<_> = store.authorities.iter().map(|one| subject(&one.certificate)).collect();
    assert_eq!(subjects, ["CN=middle", "CN=root"]);
}

#[test]
fn stores_of_java_are_read_with_their_keys_and_their_trusted_certificates() {
    let store = Keystore::read(include_bytes!("tests/store.jks"), "store-password", "key-password").unwrap();
    let names: Vec<_> = store.keys.iter().map(|key| (key.alias.as_str(), subject(&key.chain[0]))).collect();
    assert_eq!(names, [("edge", "CN=edge.example".to_owned())]);
    let trusted: Vec<_> = store.authorities.iter().map(|one| one.alias.as_str()).collect();
    assert_eq!(trusted, ["partner"]);
    let error = Keystore::read(include_bytes!("tests/store.jks"), "store-password", "store-password").unwrap_err();
    assert!(matches!(&error, KeystoreError::KeyPassword(alias) if alias == "edge"), "{error:?}");

    let store = Keystore::read(include_bytes!("tests/store-of-java.p12"), "store-password", "").unwrap();
    assert_eq!(store.keys.len(), 2);
    assert_eq!(store.authorities.len(), 1);
}

#[test]
fn damaged_stores_are_refused_wherever_they_are_damaged() {
    let whole = include_bytes!("tests/store.jks");
    for length in 0..whole.len() {
        assert!(Keystore::read(&whole[..length], "store-password", "key-password").is_err(), "{length}");
    }
    for at in (0..whole.len()).step_by(7) {
        let mut altered = whole.to_vec();
        altered[at] ^= 0x41;
        assert!(Keystore::read(&altered, "store-password", "key-password").is_err(), "{at}");
    }
    // The digest is right, and what it is of is not.
    for at in (4..whole.len() - 20).step_by(3) {
        let mut altered = whole[..whole.len() - 20].to_vec();
        altered[at] = 0xff;
        let digest = jks::digest_of("store-password", &altered);
        altered.extend(digest);
        let _ = Keystore::read(&altered, "store-password", "key-password");
    }
}
