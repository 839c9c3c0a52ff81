//! An authority of one's own, made by the `openssl` command: certificates, revocation lists, OCSP responses.
//!
//! Included by path where a test needs it. Everything stands in one directory under short names.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether there is an openssl; says so aloud where not. With STRANGERS=require, as in CI, that is a failure.
pub fn is_available() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    assert!(found || std::env::var("STRANGERS").as_deref() != Ok("require"), "openssl is not installed");
    if !found {
        // Past the harness, which keeps what passing tests print.
        let _ = writeln!(std::io::stderr(), "skipped: openssl is not installed (apt-get install openssl)");
    }
    found
}

/// An authority in a directory: `ca.pem`, `ca.key`.
pub struct Authority {
    directory: PathBuf,
}

const CONFIGURATION: &str = "\
[req]
distinguished_name = name
prompt = no
[name]
CN = nobody
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[register]
database = index.txt
crlnumber = crlnumber
default_md = sha256
new_certs_dir = .
rand_serial = yes
policy = anything
[anything]
commonName = supplied
";

impl Authority {
    /// A new one, whose certificate lasts as many days.
    pub fn new(directory: &Path, days: u32) -> Self {
        let authority = Self { directory: directory.to_owned() };
        std::fs::create_dir_all(directory).unwrap();
        authority.write("openssl.cnf", CONFIGURATION);
        authority.write("index.txt", "");
        authority.write("crlnumber", "01\n");
        authority.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key");
        let name = directory.file_name().unwrap().to_str().unwrap();
        authority.openssl(&format!(
            "req -x509 -new -key ca.key -subj /CN={name} -days {days} -config openssl.cnf -extensions authority -out ca.pem"
        ));
        authority
    }

    /// One that stands there already.
    #[allow(dead_code, reason = "not every test that includes this file needs it")]
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Where a file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Puts a file there.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A file's text.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A certificate `NAME.pem` for these alternative names (`DNS:a,IP:::1`), with a key `NAME.key` of P-256.
    pub fn issue(&self, name: &str, alternatives: &str, days: u32) {
        self.openssl(&format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"));
        self.sign(name, &format!("subjectAltName = {alternatives}\n"), days);
    }

    /// A certificate `NAME.pem` with these extensions for the key `NAME.key`.
    pub fn sign(&self, name: &str, extensions: &str, days: u32) {
        self.write(&format!("{name}.cnf"), extensions);
        self.openssl(&format!("req -new -key {name}.key -subj /CN={name} -config openssl.cnf -out {name}.csr"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile {name}.cnf -out {name}.pem"
        ));
    }

    /// What the authority has revoked: nothing, as `NAME.crl`.
    pub fn list(&self, name: &str, days: u32) {
        self.openssl(&format!(
            "ca -gencrl -config openssl.cnf -name register -keyfile ca.key -cert ca.pem -crldays {days} -out {name}.crl"
        ));
    }

    /// What the authority says about `NAME.pem`, as `NAME.ocsp` (DER): that it is good.
    pub fn respond(&self, name: &str, days: u32) {
        let serial = self.openssl(&format!("x509 -in {name}.pem -noout -serial"));
        let serial = serial.trim().trim_start_matches("serial=");
        self.write("index.txt", &format!("V\t360101000000Z\t\t{serial}\tunknown\t/CN={name}\n"));
        self.openssl(&format!("ocsp -issuer ca.pem -cert {name}.pem -no_nonce -reqout {name}.req"));
        self.openssl(&format!(
            "ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -reqin {name}.req -ndays {days} -respout {name}.ocsp"
        ));
    }

    /// Runs the command in the directory; what it printed.
    pub fn openssl(&self, arguments: &str) -> String {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&self.directory)
            .output()
            .expect("openssl runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }
}
