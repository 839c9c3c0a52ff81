//! Keys and certificates of the cells in which TLS is spoken: made by openssl when the rig starts, the same for every target.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::load::tls::SERVER_NAME;

/// What signs a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    EcdsaP256,
    Rsa2048,
}

/// A directory with the files of both kinds of key, and of the authority that signed them.
#[derive(Debug, Clone)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes them.
    pub fn make(directory: &Path) -> Result<Self, String> {
        let this = Self { directory: directory.to_owned() };
        for key in [Key::EcdsaP256, Key::Rsa2048] {
            this.make_one(key)?;
        }
        Ok(this)
    }

    /// Those that somebody has made there.
    pub fn in_directory(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The certificate.
    pub fn chain(&self, key: Key) -> PathBuf {
        self.file(key, "chain.pem")
    }

    /// Its private key.
    pub fn key(&self, key: Key) -> PathBuf {
        self.file(key, "key.pem")
    }

    /// Both in one file.
    pub fn both(&self, key: Key) -> PathBuf {
        self.file(key, "both.pem")
    }

    /// The authority's certificate.
    pub fn authority(&self, key: Key) -> PathBuf {
        self.file(key, "authority.pem")
    }

    fn file(&self, key: Key, name: &str) -> PathBuf {
        let kind = match key {
            Key::EcdsaP256 => "ecdsa",
            Key::Rsa2048 => "rsa",
        };
        self.directory.join(format!("{kind}-{name}"))
    }

    fn make_one(&self, key: Key) -> Result<(), String> {
        let algorithm: &[&str] = match key {
            Key::EcdsaP256 => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Key::Rsa2048 => &["-newkey", "rsa:2048"],
        };
        let authority_key = self.file(key, "authority-key.pem");
        let request = |subject: &str| {
            let mut command = Command::new("openssl");
            command.args(["req", "-x509", "-sha256", "-nodes", "-days", "30", "-subj", subject]).args(algorithm);
            command
        };
        run(request("/CN=Framegate rig authority")
            .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"])
            .arg("-keyout")
            .arg(&authority_key)
            .arg("-out")
            .arg(self.authority(key)))?;
        run(request(&format!("/CN={SERVER_NAME}"))
            .args(["-addext", &format!("subjectAltName=DNS:{SERVER_NAME},IP:127.0.0.1")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "keyUsage=critical,digitalSignature"])
            .args(["-addext", "extendedKeyUsage=serverAuth"])
            .arg("-CA")
            .arg(self.authority(key))
            .arg("-CAkey")
            .arg(&authority_key)
            .arg("-keyout")
            .arg(self.key(key))
            .arg("-out")
            .arg(self.chain(key)))?;
        let read = |path: PathBuf| std::fs::read(path).map_err(|error| error.to_string());
        let both = [read(self.chain(key))?, read(self.key(key))?].concat();
        std::fs::write(self.both(key), both).map_err(|error| error.to_string())
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("openssl: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("openssl: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
