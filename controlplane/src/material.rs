//! Certificates, keys and revocation lists: reads the files that a configuration names, and says what is wrong with them.
//!
//! What comes out has contents in place of paths, each in one plain form, so that a comment in a file is no change.
//! Everything that is wrong is found at once. What fields mean together is the snapshot's business, and how long what
//! is published will last is [`expiry`](crate::expiry)'s.

mod authorities;
pub(crate) mod certificate;
mod ocsp;
pub(crate) mod pem;
mod places;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proto::limits::{
    AUTHORITIES_BYTES_MAX, CHAIN_BYTES_MAX, JWKS_BYTES_MAX, KEY_BYTES_MAX, OCSP_RESPONSE_BYTES_MAX,
    REVOCATION_BYTES_MAX,
};
use proto::snapshot::{
    Assertion, Authorities, Bind, Certificate, Config, Digest, Issuer, Jwks, Pem, Problem, Snapshot, TokenEndpoint,
    http_url_problem,
};
use rustls::RootCertStore;
use x509_parser::time::ASN1Time;

use crate::source::Document;
use crate::tokens::jws::SigningKey;
use crate::tokens::{Fetch, KeySets, jwks};

/// The label of an OCSP response in a push.
const OCSP_RESPONSE: &str = "OCSP RESPONSE";

/// What came of a document's certificates.
#[derive(Debug)]
pub struct Material {
    /// The document's configuration, with contents in place of paths wherever they could be read.
    pub config: Config,
    /// Every file that was read or should have been.
    pub files: BTreeSet<PathBuf>,
    /// Every directory in which a change may change what those files are.
    pub directories: BTreeSet<PathBuf>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What should be looked after.
    pub warnings: Vec<Problem>,
    /// When some of what is wrong will be right by itself: the first certificate that is not valid yet becomes so.
    pub again: Option<SystemTime>,
    /// Sets of keys that are fetched.
    pub fetches: Vec<Fetch>,
}

/// What has been published before, byte for byte: there, a date that has passed is no reason to refuse everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known(pub HashSet<Digest>);

impl Known {
    /// What a snapshot holds.
    pub fn of(snapshot: &Snapshot) -> Self {
        let pairs = snapshot.certificates().filter_map(|one| pair_digest(&one.chain, &one.key));
        let responses = snapshot.certificates().filter_map(|one| one.ocsp_response.as_ref()?.text());
        Self(pairs.chain(responses.map(|text| Digest::of(text.as_bytes()))).collect())
    }
}

fn pair_digest(chain: &Pem, key: &Pem) -> Option<Digest> {
    Some(Digest::of([chain.text()?, "\0", key.text()?].concat().as_bytes()))
}

/// Reads and checks everything that the document names. `keys` is what of issuers' keys stands in no file.
pub fn load(document: &Document, known: &Known, keys: &KeySets, now: SystemTime) -> Material {
    let mut config = document.config.clone();
    let warn_within = Duration::from_millis(config.settings.certificate_expiry_warning.as_ms());
    let mut loader = Loader::new(document, known, now, warn_within);
    let shown: HashSet<String> = config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
        .flat_map(|tls| tls.certificates.iter().cloned())
        .collect();
    for (at, certificate) in config.certificates.iter_mut().enumerate() {
        loader.certificate(at, certificate, shown.contains(&certificate.name));
    }
    for (at, authorities) in config.authorities.iter_mut().enumerate() {
        loader.authorities(at, authorities);
    }
    let mut fetches = Vec::new();
    for (at, issuer) in config.issuers.iter_mut().enumerate() {
        fetches.extend(loader.issuer(at, issuer, keys));
    }
    for (at, assertion) in config.assertions.iter_mut().enumerate() {
        loader.assertion(at, assertion);
    }
    if let Some(endpoint) = &mut config.token_endpoint {
        loader.token_endpoint(endpoint);
    }
    loader.tokens_in_clear(&config);
    loader.unverified(&config);
    loader.unusable(&config);
    let Loader { files, directories, problems, warnings, again, .. } = loader;
    Material { config, files, directories, problems, warnings, again, fetches }
}

struct Loader<'d> {
    document: &'d Document,
    known: &'d Known,
    now: SystemTime,
    warn_within: Duration,
    files: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    again: Option<SystemTime>,
}

/// A field that holds a content, and how to speak of it.
struct Field {
    /// JSON Pointer into the document.
    place: String,
    /// Such as `certificate "edge"`.
    owner: String,
    /// The file, where there is one.
    file: Option<PathBuf>,
}

/// Where what is found is put.
pub(crate) struct Findings<'f> {
    now: SystemTime,
    warn_within: Duration,
    /// What speaks of time is a warning only.
    dates_are_warnings: bool,
    field: &'f Field,
    problems: &'f mut Vec<Problem>,
    warnings: &'f mut Vec<Problem>,
    again: &'f mut Option<SystemTime>,
}

impl Findings<'_> {
    fn error(&mut self, message: String) {
        let message = self.field.sentence(&message);
        self.problems.push(Problem { place: self.field.place.clone(), message });
    }

    fn warning(&mut self, message: String) {
        let message = self.field.sentence(&message);
        self.warnings.push(Problem { place: self.field.place.clone(), message });
    }

    /// What is too early now is looked at again then.
    fn early(&mut self, from: SystemTime, message: String) {
        *self.again = Some(self.again.map_or(from, |again| again.min(from)));
        self.date(message);
    }

    fn date(&mut self, message: String) {
        if self.dates_are_warnings { self.warning(message) } else { self.error(message) }
    }
}

impl Field {
    fn sentence(&self, message: &str) -> String {
        match self.file.as_ref().filter(|file| may_be_shown(file)) {
            Some(file) => format!("{}, {}: {message}", self.owner, file.display()),
            None => format!("{}: {message}", self.owner),
        }
    }
}

/// A key that lacks its lines of PEM looks like a path, which nothing of the kind is.
fn may_be_shown(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_a_name = name.len() < 40 || name.contains('.');
    is_a_name && file.parent().is_some_and(Path::is_dir)
}

impl<'d> Loader<'d> {
    fn new(document: &'d Document, known: &'d Known, now: SystemTime, warn_within: Duration) -> Self {
        Self {
            document,
            known,
            now,
            warn_within,
            files: BTreeSet::new(),
            directories: BTreeSet::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            again: None,
        }
    }

    fn certificate(&mut self, at: usize, one: &mut Certificate, is_shown: bool) {
        let owner = format!("certificate {:?}", one.name);
        let place = |field: &str| format!("/certificates/{at}/{field}");
        let chain = self.content(&one.chain, place("chain"), &owner, CHAIN_BYTES_MAX, certificate::certificates);
        let key = self.content(&one.key, place("key"), &owner, KEY_BYTES_MAX, certificate::private_key);
        let response = one
            .ocsp_response
            .as_ref()
            .and_then(|pem| self.content(pem, place("ocsp_response"), &owner, OCSP_RESPONSE_BYTES_MAX, ocsp_response));
        if let Some((_, chain)) = &chain {
            one.chain = Pem::Text(certificate::text(chain));
        }
        if let Some((field, key)) = &key {
            one.key = Pem::Text(pem::text(&key.label, &key.bytes));
            self.private(field);
        }
        let is_known = pair_digest(&one.chain, &one.key).is_some_and(|digest| self.known.0.contains(&digest));
        if let Some((field, chain)) = &chain {
            let mut found = self.findings(field, is_known);
            certificate::check_chain(chain, is_known, &mut found);
            if is_shown {
                certificate::check_as_server(chain, &mut found);
            }
        }
        if let (Some((field, key)), false) = (&key, is_known) {
            let chain = chain.as_ref().map(|(_, chain)| chain.as_slice());
            certificate::check_key(key, chain, &mut self.findings(field, false));
        }
        if let Some((field, response)) = response {
            let text = pem::text(OCSP_RESPONSE, &response);
            let is_known = self.known.0.contains(&Digest::of(text.as_bytes()));
            one.ocsp_response = Some(Pem::Text(text));
            let leaf = chain.as_ref().and_then(|(_, chain)| chain.first());
            check_response(&response, leaf, &mut self.findings(&field, is_known));
        }
    }

    fn authorities(&mut self, at: usize, one: &mut Authorities) {
        let owner = format!("authorities {:?}", one.name);
        let place = format!("/authorities/{at}/certificates");
        let read = self.content(&one.certificates, place, &owner, AUTHORITIES_BYTES_MAX, certificate::certificates);
        let Some((field, certificates)) = read else {
            // Their lists are looked at all the same, for everything at once.
            let none = Vec::new();
            self.revocations(at, one, &owner, &none);
            return;
        };
        one.certificates = Pem::Text(certificate::text(&certificates));
        let mut store = RootCertStore::empty();
        let before = self.problems.len();
        // An authority that has run out is one that nobody's certificate will lead to: no reason to refuse the others.
        authorities::check_certificates(&certificates, &mut store, &mut self.findings(&field, true));
        let lists = self.revocations(at, one, &owner, &certificates);
        if self.problems.len() == before {
            authorities::check_together(store, lists, &mut self.findings(&field, true));
        }
    }

    fn revocations(
        &mut self,
        at: usize,
        one: &mut Authorities,
        owner: &str,
        certificates: &[Vec<u8>],
    ) -> Vec<rustls_pki_types::CertificateRevocationListDer<'static>> {
        let mut sound = Vec::new();
        for (index, revocation) in one.revocations.iter_mut().enumerate() {
            let place = format!("/authorities/{at}/revocations/{index}");
            let read = self.content(revocation, place, owner, REVOCATION_BYTES_MAX, authorities::lists);
            if let Some((field, lists)) = read {
                *revocation = Pem::Text(lists.iter().map(|bytes| pem::text(authorities::LIST, bytes)).collect());
                sound.extend(authorities::check_lists(&lists, certificates, &mut self.findings(&field, true)));
            }
        }
        sound
    }

    /// An issuer's public keys, in their plain form; where they are fetched: from where.
    fn issuer(&mut self, at: usize, issuer: &mut Issuer, keys: &KeySets) -> Option<Fetch> {
        let written = match issuer.jwks.take()? {
            Jwks::Url(url) => {
                issuer.jwks = Some(Jwks::Text(keys.of_url(&url).to_owned()));
                // What is checked as a whole has the keys in the place of the URL.
                if let Some(message) = http_url_problem(&url) {
                    self.problems.push(Problem { place: format!("/issuers/{at}/jwks"), message });
                    return None;
                }
                let every = Duration::from_millis(issuer.refresh.as_ms());
                return Some(Fetch { issuer: issuer.name.clone(), url, every });
            }
            Jwks::File(path) => Pem::File(path),
            Jwks::Text(text) => Pem::Text(text),
        };
        let (place, owner) = (format!("/issuers/{at}/jwks"), format!("issuer {:?}", issuer.name));
        let meaning = |bytes: &[u8]| jwks::read(bytes).map_err(|fault| format!("the set of keys {fault}"));
        let mut text = jwks::EMPTY.to_owned();
        if let Some((field, reading)) = self.content(&written, place, &owner, JWKS_BYTES_MAX, meaning) {
            text = reading.set.text();
            reading.warnings.into_iter().for_each(|one| self.findings(&field, true).warning(one));
        }
        issuer.jwks = Some(Jwks::Text(text));
        None
    }

    /// The key that an assertion is signed with.
    fn assertion(&mut self, at: usize, one: &mut Assertion) {
        let (place, owner) = (format!("/assertions/{at}/key"), format!("assertion {:?}", one.name));
        if let Some((field, key)) = self.content(&one.key, place, &owner, KEY_BYTES_MAX, certificate::private_key) {
            certificate::check_signs_tokens(&key, &mut self.findings(&field, false));
            one.key = Pem::Text(pem::text(&key.label, &key.bytes));
            self.private(&field);
        }
    }

    /// The key that the gateway's own tokens are signed with, where it is the operator's.
    fn token_endpoint(&mut self, endpoint: &mut TokenEndpoint) {
        let Some(written) = &endpoint.signing_key else { return };
        let place = "/token_endpoint/signing_key".to_owned();
        let algorithm = endpoint.algorithm;
        let meaning = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).map_err(|_| "it is not PEM text")?;
            SigningKey::of_pem(algorithm, text).map(|_| text.to_owned())
        };
        if let Some((field, text)) = self.content(written, place, "token_endpoint", KEY_BYTES_MAX, meaning) {
            endpoint.signing_key = Some(Pem::Text(text));
            self.private(&field);
        }
    }

    /// Client secrets and passwords go to the token endpoint.
    fn tokens_in_clear(&mut self, config: &Config) {
        let Some(endpoint) = config.token_endpoint.as_ref().filter(|endpoint| endpoint.tls.is_none()) else { return };
        if let Bind::Tcp(address) = &endpoint.bind
            && !address.ip().to_canonical().is_loopback()
        {
            let message = format!(
                "the token endpoint speaks plain HTTP on {address}: whoever is on the way reads secrets and tokens; add \
                 tls, or bind it to a loopback address behind a proxy that speaks it"
            );
            self.warnings.push(Problem { place: "/token_endpoint/tls".into(), message });
        }
    }

    /// A content as bytes, turned into what it means; `None` where that could not be, which has been told then.
    fn content<T>(
        &mut self,
        pem: &Pem,
        place: String,
        owner: &str,
        bytes_max: usize,
        meaning: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Option<(Field, T)> {
        let file = pem.file().map(|path| self.document.directory_of(&place).join(path));
        let read = match (&file, pem) {
            (Some(file), _) => {
                self.files.insert(file.clone());
                places::watched(file, &mut self.directories);
                read(file, bytes_max)
            }
            (None, Pem::Text(text)) => Ok(text.clone().into_bytes()),
            (None, Pem::File(_)) => unreachable!("a path is a file"),
        };
        let field = Field { place, owner: owner.to_owned(), file };
        match read.and_then(|bytes| meaning(&bytes)) {
            Ok(meaning) => Some((field, meaning)),
            Err(fault) => {
                self.findings(&field, false).error(fault);
                None
            }
        }
    }

    /// A private key is for its owner's eyes.
    fn private(&mut self, field: &Field) {
        let Some(file) = &field.file else { return };
        let mode = file.metadata().map_or(0, |metadata| metadata.mode());
        if mode & 0o077 != 0 {
            let who = if mode & 0o007 != 0 { "everybody" } else { "its group" };
            let message =
                format!("this private key's file is open to {who} (mode {:03o}); `chmod 600` closes it", mode & 0o777);
            self.findings(field, true).warning(message);
        }
    }

    /// Endpoints whose certificates nobody looks at, for as long as that is so.
    fn unverified(&mut self, config: &Config) {
        for (at, upstream) in config.upstreams.iter().enumerate() {
            for (index, endpoint) in upstream.endpoints.iter().enumerate().filter(|(_, one)| !one.verify_certificate) {
                let place = format!("/upstreams/{at}/endpoints/{index}/verify_certificate");
                let url = endpoint.url.without_query();
                let message = format!(
                    "upstream {:?}: whatever certificate {url} shows is believed; anybody on the way can read and \
                     change everything",
                    upstream.name
                );
                self.warnings.push(Problem { place, message });
            }
        }
    }

    /// Certificates for whose kind of key a listener speaks no suite. Those of TLS 1.3 go with every key.
    fn unusable(&mut self, config: &Config) {
        if config.listeners.iter().flat_map(|listener| &listener.tls).all(|tls| tls.cipher_suites.is_empty()) {
            return;
        }
        let kind = |one: &Certificate| Some((one.name.clone(), certificate::is_rsa(one.chain.text()?)?));
        let kinds: HashMap<String, bool> = config.certificates.iter().filter_map(kind).collect();
        for (at, listener) in config.listeners.iter().enumerate() {
            let Some(tls) = listener.tls.as_ref().filter(|tls| !tls.cipher_suites.is_empty()) else { continue };
            for (index, name) in tls.certificates.iter().enumerate() {
                let Some(&is_rsa) = kinds.get(name) else { continue };
                if tls.cipher_suites.iter().any(|suite| suite.is_rsa().is_none_or(|wanted| wanted == is_rsa)) {
                    continue;
                }
                let (kind, suites) =
                    if is_rsa { ("RSA", "TLS_ECDHE_RSA_…") } else { ("EC or Ed25519", "TLS_ECDHE_ECDSA_…") };
                let place = format!("/listeners/{at}/tls/certificates/{index}");
                let message = format!(
                    "certificate {name:?} has a key of the kind {kind}, and none of cipher_suites goes with that; nobody \
                     can be shown it before a suite of TLS 1.3 or one of {suites} is added"
                );
                self.warnings.push(Problem { place, message });
            }
        }
    }

    fn findings<'f>(&'f mut self, field: &'f Field, dates_are_warnings: bool) -> Findings<'f> {
        Findings {
            now: self.now,
            warn_within: self.warn_within,
            dates_are_warnings,
            field,
            problems: &mut self.problems,
            warnings: &mut self.warnings,
            again: &mut self.again,
        }
    }
}

/// The bytes of a regular file; the error is a sentence. Nothing that is opened here can make the reader wait.
fn read(file: &Path, bytes_max: usize) -> Result<Vec<u8>, String> {
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file);
    let opened = opened.map_err(|error| format!("cannot be opened: {error}"))?;
    if !opened.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("is not a file".into());
    }
    let mut bytes = Vec::new();
    let limit = bytes_max as u64 + 1;
    opened.take(limit).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > bytes_max {
        return Err(format!("has more than {bytes_max} bytes"));
    }
    Ok(bytes)
}

/// An OCSP response, DER or PEM, as DER.
fn ocsp_response(content: &[u8]) -> Result<Vec<u8>, String> {
    if content.starts_with(&[0x30]) {
        return Ok(content.to_vec());
    }
    let text = std::str::from_utf8(content).map_err(|_| "it is neither PEM text nor DER")?;
    let block = pem::blocks(text)?.into_iter().find(|block| block.label == OCSP_RESPONSE);
    block.map(|block| block.bytes).ok_or_else(|| {
        "it holds no OCSP response: it is not DER, and no block begins with -----BEGIN OCSP RESPONSE-----".into()
    })
}

fn check_response(response: &[u8], leaf: Option<&Vec<u8>>, found: &mut Findings<'_>) {
    let said = match ocsp::read(response) {
        Ok(said) => said,
        Err(fault) => return found.error(fault.into()),
    };
    let leaf = leaf.and_then(|bytes| certificate::parse(bytes).ok());
    if leaf.is_some_and(|leaf| leaf.raw_serial() != said.serial) {
        found.error("this OCSP response is about another certificate; ask for one about this".into());
    }
    if said.status != "good" {
        found.warning(format!(
            "this OCSP response says that the certificate is {}; clients will refuse it",
            said.status
        ));
    }
    if let Some(next) = said.next_update.map(Moment).filter(|next| next.0 < found.now) {
        found.date(format!("this OCSP response ran out at {next}; ask for a newer one, or leave ocsp_response out"));
    }
}

/// A time, as a person and a program read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub SystemTime);

pub(crate) fn moment(time: ASN1Time) -> Moment {
    let seconds = time.timestamp();
    let since = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if seconds < 0 { epoch.checked_sub(since) } else { epoch.checked_add(since) };
    Moment(time.unwrap_or(epoch))
}

impl fmt::Display for Moment {
    /// `2026-11-21T17:00:00Z`, RFC 3339.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = match self.0.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(error) => -i64::try_from(error.duration().as_secs()).unwrap_or(i64::MAX),
        };
        let Ok(time) = ASN1Time::from_timestamp(seconds) else { return f.write_str("a time beyond years") };
        let time = time.to_datetime();
        let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
        let (hour, minute, second) = (time.hour(), time.minute(), time.second());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// `in 3 days`, `today`, where the time is no further away than that; nothing for what has passed.
pub(crate) fn within(now: SystemTime, until: SystemTime, limit: Duration) -> Option<String> {
    let left = until.duration_since(now).ok().filter(|left| *left <= limit && !limit.is_zero())?;
    Some(match left.as_secs() / 86_400 {
        0 => "in less than a day".into(),
        1 => "in 1 day".into(),
        days => format!("in {days} days"),
    })
}
