//! `convert keystore FILE`: a key store of PKCS#12 or JKS into PEM files, and the lines of a configuration that use them.
//!
//! Passwords come from files or the environment, never from arguments, which every process of a host can read.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::errors::with_sources;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::table::table;
use super::{Verdict, absolute, cannot, print};
use crate::keystore::{FILE_BYTES_MAX, KeyEntry, Keystore, KeystoreError};

const PASSWORD: &str = "FRAMEGATE_KEYSTORE_PASSWORD";
const KEY_PASSWORD: &str = "FRAMEGATE_KEY_PASSWORD";
/// A password is no longer than this.
const PASSWORD_BYTES_MAX: u64 = 4096;
const LINE_CHARS: usize = 64;

/// Options of `convert`.
#[derive(Debug, clap::Args)]
#[command(flatten_help = true)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

/// What is converted.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// A key store or trust store (PKCS#12, JKS) into PEM files
    Keystore(KeystoreOptions),
}

/// Options of `convert keystore`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The private key is written with mode 0600. Files that exist are left alone, unless --force is given.\n\n\
    Passwords are read from files, or from the environment variables FRAMEGATE_KEYSTORE_PASSWORD and \
    FRAMEGATE_KEY_PASSWORD; they are never arguments.\n\n\
    Exit codes: 0 written, 1 the store has not what was asked for or the password is wrong, 2 a file cannot be read or \
    written."
)]
struct KeystoreOptions {
    /// The store
    file: PathBuf,
    /// The file whose first line is the store's password; - for standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The file whose first line is the key's own password, where a JKS has one
    #[arg(long, value_name = "FILE")]
    key_password_file: Option<PathBuf>,
    /// Where to write
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// The entry that is wanted, of a store with several keys
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Overwrite files
    #[arg(long)]
    force: bool,
    /// Print what was written as one JSON document
    #[arg(long)]
    json: bool,
}

/// What the verb says.
#[derive(Debug, Serialize)]
struct Answer {
    written: Vec<Written>,
    yaml: String,
}

#[derive(Debug, Serialize)]
struct Written {
    file: PathBuf,
    what: &'static str,
    certificates: Vec<About>,
}

#[derive(Debug, Serialize)]
struct About {
    subject: String,
    not_after: String,
    expired: bool,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
enum ConvertError {
    #[error("{} cannot be read", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{} cannot be written", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("{} is larger than any key store: {FILE_BYTES_MAX} bytes", .0.display())]
    Large(PathBuf),
    #[error("the store's password is wanted: --password-file FILE, or {PASSWORD} in the environment")]
    NoPassword,
    #[error("{}", .0.display())]
    Store(PathBuf, #[source] KeystoreError),
    #[error("{} has neither keys nor certificates", .0.display())]
    Empty(PathBuf),
    #[error("the store has several keys; --alias names one of them: {0}")]
    Several(String),
    #[error("the store has no entry {0:?}; it has {1}")]
    NoEntry(String, String),
    #[error("{} exists; --force overwrites it", .0.display())]
    Exists(PathBuf),
}

impl ConvertError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Store(..) | Self::Empty(_) | Self::Several(_) | Self::NoEntry(..) => Verdict::No,
            _ => Verdict::Unknown,
        }
    }
}

/// Converts, and says what came of it.
pub fn run(options: Options) -> ExitCode {
    let What::Keystore(options) = options.what;
    match convert(&options) {
        Ok(answer) if options.json => {
            print(&(serde_json::to_string(&answer).expect("an answer is JSON") + "\n"));
            Verdict::Yes.into()
        }
        Ok(answer) => {
            print(&show(&answer));
            Verdict::Yes.into()
        }
        Err(error) => {
            cannot(options.json, &with_sources(&error));
            error.verdict().into()
        }
    }
}

fn convert(options: &KeystoreOptions) -> Result<Answer, ConvertError> {
    let bytes = read_store(&options.file)?;
    let password = password(options.password_file.as_deref(), PASSWORD)?.ok_or(ConvertError::NoPassword)?;
    let key_password = self::password(options.key_password_file.as_deref(), KEY_PASSWORD)?;
    let key_password = key_password.as_deref().unwrap_or(&password);
    let store = Keystore::read(&bytes, &password, key_password);
    let store = store.map_err(|error| ConvertError::Store(options.file.clone(), error))?;
    let (key, authorities) = choose(store, options)?;
    let stem = options.file.file_stem().unwrap_or_default().to_string_lossy();
    let name = plain_name(options.alias.as_deref().or(key.as_ref().map(|key| key.alias.as_str())).unwrap_or(&stem));
    let place = |ending: &str| absolute(&options.out.join(format!("{name}{ending}")));
    let mut files = Vec::new();
    let mut yaml = String::new();
    if let Some(key) = &key {
        let (chain, secret) = (place(".pem"), place(".key"));
        let _ = writeln!(
            yaml,
            "certificates:\n  - {{ name: {name}, chain: {:?}, key: {:?} }}",
            chain.display().to_string(),
            secret.display().to_string()
        );
        files.push((chain, "certificate chain", key.chain.clone(), pem_of(&key.chain), 0o644));
        files.push((secret, "private key", Vec::new(), pem("PRIVATE KEY", key.key.secret_pkcs8_der()), 0o600));
    }
    if !authorities.is_empty() {
        let path = place("-authorities.pem");
        let shown = path.display().to_string();
        let _ = writeln!(yaml, "authorities:\n  - {{ name: {name}, certificates: {shown:?} }}");
        let text = pem_of(&authorities);
        files.push((path, "authorities", authorities, text, 0o644));
    }
    if !options.force
        && let Some((path, ..)) = files.iter().find(|(path, ..)| path.symlink_metadata().is_ok())
    {
        return Err(ConvertError::Exists(path.clone()));
    }
    fs::create_dir_all(&options.out).map_err(|error| ConvertError::Write(options.out.clone(), error))?;
    let mut written = Vec::new();
    for (file, what, certificates, text, mode) in files {
        write(&file, &text, mode, options.force).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => ConvertError::Exists(file.clone()),
            _ => ConvertError::Write(file.clone(), error),
        })?;
        written.push(Written { file, what, certificates: certificates.iter().map(about).collect() });
    }
    Ok(Answer { written, yaml })
}

/// The key that is meant, if the store has any, and the authorities.
fn choose(
    mut store: Keystore,
    options: &KeystoreOptions,
) -> Result<(Option<KeyEntry>, Vec<CertificateDer<'static>>), ConvertError> {
    let keys = store.keys.iter().map(|key| key.alias.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(alias) = &options.alias {
        // Java's aliases are the same whatever their case.
        let is_meant = |name: &str| name.eq_ignore_ascii_case(alias);
        let key = store.keys.iter().position(|key| is_meant(&key.alias)).map(|at| store.keys.swap_remove(at));
        if key.is_none() {
            let names = store.authorities.iter().map(|one| one.alias.as_str());
            let names = [keys.as_str()].into_iter().filter(|keys| !keys.is_empty()).chain(names).collect::<Vec<_>>();
            let all = names.join(", ");
            store.authorities.retain(|one| is_meant(&one.alias));
            if store.authorities.is_empty() {
                return Err(ConvertError::NoEntry(alias.clone(), all));
            }
        }
        return Ok((key, store.authorities.into_iter().map(|one| one.certificate).collect()));
    }
    match store.keys.len() {
        0 if store.authorities.is_empty() => Err(ConvertError::Empty(options.file.clone())),
        0 | 1 => Ok((store.keys.pop(), store.authorities.into_iter().map(|one| one.certificate).collect())),
        _ => Err(ConvertError::Several(keys)),
    }
}

fn read_store(path: &Path) -> Result<Vec<u8>, ConvertError> {
    let failed = |error| ConvertError::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > FILE_BYTES_MAX { Err(ConvertError::Large(path.to_owned())) } else { Ok(bytes) }
}

/// The first line of the file, or else the variable.
fn password(file: Option<&Path>, variable: &str) -> Result<Option<String>, ConvertError> {
    let Some(path) = file else { return Ok(std::env::var(variable).ok()) };
    let failed = |error| ConvertError::Read(path.to_owned(), error);
    let mut text = String::new();
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    source.take(PASSWORD_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
}

/// Writes beside the place first, so that there is never half a file; the mode is there from the first byte on.
fn write(path: &Path, text: &str, mode: u32, force: bool) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let placed = match force {
        true => fs::rename(&beside, path),
        // A link, unlike a rename, never takes another's place.
        false => fs::hard_link(&beside, path),
    };
    let _ = fs::remove_file(&beside);
    placed
}

fn pem_of(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|one| pem("CERTIFICATE", one)).collect()
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, left) = rest.split_at(rest.len().min(LINE_CHARS));
        text += line;
        text += "\n";
        rest = left;
    }
    text + &format!("-----END {label}-----\n")
}

/// An alias as a file name and as a name in a configuration.
fn plain_name(alias: &str) -> String {
    let plain =
        |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c.to_ascii_lowercase() } else { '-' };
    let name: String = alias.chars().map(plain).take(64).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "keystore".into() } else { name.into() }
}

fn about(certificate: &CertificateDer<'static>) -> About {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => About {
            subject: parsed.subject().to_string(),
            not_after: parsed.validity().not_after.to_string(),
            expired: parsed.validity().time_to_expiration().is_none(),
        },
        Err(_) => About { subject: "unreadable".into(), not_after: "-".into(), expired: false },
    }
}

fn show(answer: &Answer) -> String {
    let mut rows = vec![["FILE", "HOLDS", "SUBJECT", "NOT AFTER"].map(str::to_owned).to_vec()];
    for Written { file, what, certificates } in &answer.written {
        let first = [file.display().to_string(), (*what).to_owned()];
        if certificates.is_empty() {
            rows.push([first.to_vec(), vec!["-".into(), "-".into()]].concat());
        }
        for (index, About { subject, not_after, expired }) in certificates.iter().enumerate() {
            let lead = if index == 0 { first.to_vec() } else { vec![String::new(), String::new()] };
            let until = if *expired { format!("{not_after}, expired") } else { not_after.clone() };
            rows.push([lead, vec![subject.clone(), until]].concat());
        }
    }
    format!("{}\nFor the configuration:\n\n{}", table(&rows), answer.yaml)
}
