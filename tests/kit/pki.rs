//! Certificates of every kind, right and wrong ones, made by the `openssl` command: authorities, leaves, lists of what
//! is revoked, and what an OCSP responder says.
//!
//! What most stories need is made once for a build directory and shared by all test processes; a story that revokes or
//! replaces something has authorities of its own in its own directory.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

use super::wait::aloud;

/// What most stories need: a gateway and its services, which everybody in a story trusts.
#[derive(Debug)]
pub struct Pki {
    /// The authority that everything leads to.
    pub root: PathBuf,
    /// The gateway's: `gateway.test`, `localhost`, 127.0.0.1 and ::1.
    pub edge: Identity,
    /// A service's: `service.test`, `localhost`, 127.0.0.1 and ::1.
    pub service: Identity,
    /// A client's, by the same authority.
    pub client: Identity,
}

/// The shared one.
pub fn shared() -> &'static Pki {
    static SHARED: LazyLock<Pki> = LazyLock::new(Pki::made_or_found);
    &SHARED
}

impl Pki {
    /// Certificates live for 30 days; those of a build directory are made again well before.
    const AGE_MAX: Duration = Duration::from_secs(10 * 24 * 3600);

    fn made_or_found() -> Self {
        let mut recipe = DefaultHasher::new();
        include_str!("pki.rs").hash(&mut recipe);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pki-{:016x}", recipe.finish()));
        fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).expect("a directory can be made");
        let lock = File::create(directory.with_extension("lock")).expect("a lock file can be made");
        lock.lock().expect("a file can be locked");
        let done = directory.join("done");
        let age = fs::metadata(&done).and_then(|done| done.modified()).map(|made| made.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age < Self::AGE_MAX) {
            return Self::within(&directory);
        }
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory can be made");
        let intermediate = Authority::root(&directory, "root").intermediate("intermediate");
        let near = ["DNS:localhost", "IP:127.0.0.1", "IP:::1"];
        intermediate.issue(&Leaf::new("edge").names(&["DNS:gateway.test"]).names(&near));
        intermediate.issue(&Leaf::new("service").names(&["DNS:service.test"]).names(&near));
        intermediate.issue(&Leaf::new("client").names(&["DNS:client.test", "URI:spiffe://test/client"]));
        File::create(done).expect("a file can be made");
        Self::within(&directory)
    }

    fn within(directory: &Path) -> Self {
        let identity = |name| Identity::within(&directory.join("intermediate"), name);
        Self {
            root: directory.join("root/ca.pem"),
            edge: identity("edge"),
            service: identity("service"),
            client: identity("client"),
        }
    }
}

/// Whether there is an openssl; says so aloud where not. With STRANGERS=require, as in CI, that is a failure.
pub fn is_available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        let found = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
        assert!(found || std::env::var("STRANGERS").as_deref() != Ok("require"), "openssl is not installed");
        found
    });
    if !*AVAILABLE {
        aloud("skipped: openssl is not installed (apt-get install openssl)");
    }
    *AVAILABLE
}

/// A certificate with those between it and its authority, and its key.
#[derive(Debug, Clone)]
pub struct Identity {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Identity {
    fn within(directory: &Path, name: &str) -> Self {
        Self { chain: directory.join(format!("{name}.pem")), key: directory.join(format!("{name}.key")) }
    }

    /// The certificate and those behind it.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        let certificates = CertificateDer::pem_file_iter(&self.chain).expect("a PEM file");
        certificates.map(|certificate| certificate.expect("a certificate")).collect()
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).expect("a PEM file with a key")
    }

    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.certificates()[0]).iter().fold(String::new(), |mut digits, byte| {
            write!(digits, "{byte:02x}").expect("a string can grow");
            digits
        })
    }

    /// SHA-256 of the public key, as a pin is written.
    pub fn pin(&self) -> String {
        let public = openssl(&self.chain, &["pkey", "-in", path(&self.key), "-pubout", "-outform", "DER"]);
        format!("sha256/{}", STANDARD.encode(Sha256::digest(public)))
    }

    /// As an entry of `certificates`, without its braces.
    pub fn entry(&self, name: &str) -> String {
        format!("name: {name}, chain: \"{}\", key: \"{}\"", self.chain.display(), self.key.display())
    }
}

/// The kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    P256,
    P384,
    Ed25519,
    Rsa2048,
}

/// When a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    Now,
    /// It ended long ago.
    Expired,
    /// It begins in many years.
    Later,
}

/// What a certificate is to say.
#[derive(Debug, Clone)]
pub struct Leaf {
    name: String,
    names: Vec<String>,
    key: Key,
    valid: Valid,
    days: u32,
}

impl Leaf {
    /// Of a common name, with a key of P-256, valid from now on for 30 days.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), names: Vec::new(), key: Key::P256, valid: Valid::Now, days: 30 }
    }

    /// More names, as openssl writes them: `DNS:…`, `IP:…`, `URI:…`.
    pub fn names(mut self, names: &[&str]) -> Self {
        self.names.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    pub fn key(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    pub fn valid(mut self, valid: Valid) -> Self {
        self.valid = valid;
        self
    }

    pub fn days(mut self, days: u32) -> Self {
        self.days = days;
        self
    }

    fn subject(&self) -> String {
        format!("/O=Framegate/CN={}", self.name)
    }

    fn extensions(&self) -> String {
        let names =
            if self.names.is_empty() { String::new() } else { format!("subjectAltName = {}\n", self.names.join(", ")) };
        format!(
            "basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n\
             extendedKeyUsage = serverAuth, clientAuth\n{names}"
        )
    }
}

/// Signs itself: nobody has a reason to believe it.
pub fn self_signed(directory: &Path, leaf: &Leaf) -> Identity {
    let identity = Identity::within(directory, &leaf.name);
    make_key(leaf.key, &identity.key);
    let config =
        format!("[req]\ndistinguished_name = nobody\nx509_extensions = leaf\n[nobody]\n[leaf]\n{}", leaf.extensions());
    let config_path = directory.join(format!("{}.cnf", leaf.name));
    fs::write(&config_path, config).expect("a file can be written");
    let (key, days) = (path(&identity.key), leaf.days.to_string());
    let subject = leaf.subject();
    let options = ["-config", path(&config_path), "-days", &days, "-subj", &subject, "-out", path(&identity.chain)];
    openssl(directory, &[&["req", "-x509", "-new", "-key", key][..], &options].concat());
    identity
}

/// An authority, with all that it has ever signed; its directory is named after it.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    /// Those between it and its root, itself first; not the root.
    between: Vec<PathBuf>,
}

/// Of every authority, with its name as the only thing that differs.
const CONFIG: &str = "\
[req]
distinguished_name = nobody
[nobody]
[ca]
default_ca = this
[this]
database = index.txt
new_certs_dir = issued
rand_serial = yes
crlnumber = crlnumber
unique_subject = no
default_md = sha256
default_days = 30
default_crl_days = 30
certificate = ca.pem
private_key = ca.key
policy = any
crl_extensions = list
[any]
organizationName = optional
commonName = supplied
[list]
authorityKeyIdentifier = keyid:always
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
subjectKeyIdentifier = hash
";

impl Authority {
    /// One that signs itself, in a new directory of this name below the given one.
    pub fn root(parent: &Path, name: &str) -> Self {
        let authority = Self::begun(parent, name);
        let subject = format!("/O=Framegate/CN={name}");
        let options = ["-extensions", "authority", "-subj", &subject, "-days", "3650", "-out", "ca.pem"];
        authority.run(&[&["req", "-x509", "-new", "-key", "ca.key", "-config", "ca.cnf"][..], &options].concat());
        authority
    }

    /// One that this one answers for, in a directory beside it.
    pub fn intermediate(&self, name: &str) -> Self {
        let mut authority = Self::begun(self.directory.parent().expect("an authority lies in a directory"), name);
        let subject = format!("/O=Framegate/CN={name}");
        authority.run(&["req", "-new", "-key", "ca.key", "-config", "ca.cnf", "-subj", &subject, "-out", "ca.csr"]);
        let (request, out) = (authority.directory.join("ca.csr"), authority.certificate());
        self.sign(&request, &out, &["-extensions", "authority", "-days", "365"]);
        authority.between = [&[out][..], &self.between].concat();
        authority
    }

    fn begun(parent: &Path, name: &str) -> Self {
        let directory = parent.join(name);
        fs::create_dir_all(directory.join("issued")).expect("a directory can be made");
        for (file, content) in [("index.txt", ""), ("crlnumber", "01\n"), ("ca.cnf", CONFIG)] {
            fs::write(directory.join(file), content).expect("a file can be written");
        }
        make_key(Key::P256, &directory.join("ca.key"));
        Self { directory, between: Vec::new() }
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// As an entry of `authorities`, without its braces.
    pub fn entry(&self, name: &str) -> String {
        format!("name: {name}, certificates: \"{}\"", self.certificate().display())
    }

    /// Signs what is asked for. A name that was there before is written over.
    pub fn issue(&self, leaf: &Leaf) -> Identity {
        let identity = Identity::within(&self.directory, &leaf.name);
        make_key(leaf.key, &identity.key);
        let [request, extensions] = ["csr", "ext"].map(|end| self.directory.join(format!("{}.{end}", leaf.name)));
        let (key, subject) = (path(&identity.key), leaf.subject());
        let options = ["-config", "ca.cnf", "-subj", &subject, "-out", path(&request)];
        self.run(&[&["req", "-new", "-key", key][..], &options].concat());
        fs::write(&extensions, leaf.extensions()).expect("a file can be written");
        let days = leaf.days.to_string();
        let dates = match leaf.valid {
            Valid::Now => vec!["-days", &days],
            Valid::Expired => vec!["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"],
            Valid::Later => vec!["-startdate", "20480101000000Z", "-enddate", "20480201000000Z"],
        };
        self.sign(&request, &identity.chain, &[&["-extfile", path(&extensions)][..], &dates].concat());
        let parts = std::iter::once(&identity.chain).chain(&self.between);
        let chain: Vec<u8> = parts.flat_map(|part| fs::read(part).expect("a certificate")).collect();
        fs::write(&identity.chain, chain).expect("a file can be written");
        identity
    }

    fn sign(&self, request: &Path, out: &Path, options: &[&str]) {
        let files = ["-in", path(request), "-out", path(out)];
        self.run(&[&["ca", "-batch", "-notext", "-config", "ca.cnf"][..], &files, options].concat());
    }

    /// Takes it back. Nobody knows before the next [`revocations`](Self::revocations).
    pub fn revoke(&self, identity: &Identity) {
        self.run(&["ca", "-config", "ca.cnf", "-revoke", path(&identity.chain)]);
    }

    /// The list of what was taken back until now.
    pub fn revocations(&self) -> PathBuf {
        let list = self.directory.join("revoked.crl");
        self.run(&["ca", "-config", "ca.cnf", "-gencrl", "-out", path(&list)]);
        list
    }

    /// What its OCSP responder says about a certificate today.
    pub fn ocsp(&self, identity: &Identity) -> PathBuf {
        let [request, response] = ["ocsp-request", "ocsp"].map(|end| identity.chain.with_extension(end));
        let certificate = path(&identity.chain);
        self.run(&["ocsp", "-issuer", "ca.pem", "-cert", certificate, "-no_nonce", "-reqout", path(&request)]);
        let responder =
            ["-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key", "-ndays", "7"];
        let files = ["-reqin", path(&request), "-respout", path(&response)];
        self.run(&[&["ocsp"][..], &responder, &files].concat());
        response
    }

    fn run(&self, arguments: &[&str]) -> Vec<u8> {
        openssl(&self.directory, arguments)
    }
}

/// A private key as PKCS #8, in PEM.
pub fn make_key(key: Key, out: &Path) {
    let options: &[&str] = match key {
        Key::P256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        Key::P384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        Key::Ed25519 => &["-algorithm", "ED25519"],
        Key::Rsa2048 => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    };
    openssl(out, &[&["genpkey", "-out", path(out)][..], options].concat());
}

/// The public key that belongs to a private one, in PEM.
pub fn public_pem(key: &Path) -> String {
    String::from_utf8(openssl(key, &["pkey", "-in", path(key), "-pubout"])).expect("PEM is text")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Runs openssl in a directory (or in that of a file) to its end; what it wrote.
fn openssl(place: &Path, arguments: &[&str]) -> Vec<u8> {
    let directory = if place.is_dir() { place } else { place.parent().expect("a file lies in a directory") };
    let output = Command::new("openssl").args(arguments).current_dir(directory).output();
    let output = output.expect("openssl is installed (tests/strangers/install.sh does it)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {}: {said}", arguments.join(" "));
    output.stdout
}
