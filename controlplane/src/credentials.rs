//! Certificates of the control link over TCP: files into terms of TLS, and a peer's certificate into what it may be.
//!
//! TLS 1.3 only. Which files these are is the caller's to say; those of a server are read again when they change.

mod terms;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub use terms::Terms;

/// A URI name that lets its holder ask what operators ask.
const OPERATOR: &str = "framegate:operator";
/// A URI name that lets its holder look at what operators look at, and change nothing.
const READER: &str = "framegate:read_only";
/// Begins a URI name of a node; its name follows.
const NODE: &str = "framegate:node:";
/// A subject is told no longer than this.
const SUBJECT_CHARS_MAX: usize = 128;

/// PEM files of one side of the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The own certificate, and what is between it and an authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities, of which one must have signed the other side's certificate.
    pub authorities: PathBuf,
}

/// Why files are of no use.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// One cannot be read, or is no PEM file.
    #[error("{} cannot be used", .0.display())]
    File(PathBuf, #[source] pem::Error),
    /// One has none.
    #[error("{} has no certificate", .0.display())]
    Empty(PathBuf),
    /// One has something else in a certificate's place.
    #[error("{} has a certificate that is not sound", .0.display())]
    Authority(PathBuf, #[source] rustls::Error),
    /// The authorities cannot be believed.
    #[error("{} is of no use", .0.display())]
    Authorities(PathBuf, #[source] VerifierBuilderError),
    /// Certificate and key do not belong together, or are of a kind that is not spoken.
    #[error("{} is of no use with {}", key.display(), certificate.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The library cannot do it.
    #[error("TLS 1.3 is not to be had")]
    Version(#[source] rustls::Error),
}

impl Files {
    /// Those of a command line: all three, or none.
    pub fn of_options([certificate, key, authorities]: [&Option<PathBuf>; 3]) -> Option<Self> {
        let (certificate, key, authorities) = (certificate.clone()?, key.clone()?, authorities.clone()?);
        Some(Self { certificate, key, authorities })
    }

    /// The terms of a server whose clients show certificates.
    pub fn server_config(&self) -> Result<ServerConfig, CredentialsError> {
        let Self { certificate, key, authorities } = self.clone();
        ServerFiles { certificate, key, authorities: Some(authorities), wants_certificate: true }.server_config()
    }

    /// The terms of a client.
    pub fn client_config(&self) -> Result<ClientConfig, CredentialsError> {
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(CredentialsError::Version)?
            .with_root_certificates(roots(&self.authorities)?)
            .with_client_auth_cert(certificates(&self.certificate)?, private_key(&self.key)?)
            .map_err(|source| self.pair(source))
    }

    /// The three of them.
    pub fn paths(&self) -> [&Path; 3] {
        [&self.certificate, &self.key, &self.authorities]
    }

    fn pair(&self, source: rustls::Error) -> CredentialsError {
        CredentialsError::Pair { certificate: self.certificate.clone(), key: self.key.clone(), source }
    }
}

/// PEM files of a server whose clients may, or must, show certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// The own certificate, and what is between it and an authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities, of which one must have signed what a client shows. None: clients show nothing.
    pub authorities: Option<PathBuf>,
    /// Whoever shows no certificate is not spoken with.
    pub wants_certificate: bool,
}

impl ServerFiles {
    /// The terms of the server.
    pub fn server_config(&self) -> Result<ServerConfig, CredentialsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(CredentialsError::Version)?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authorities)?), provider);
                let verifier = if self.wants_certificate { verifier } else { verifier.allow_unauthenticated() }.build();
                let failed = |error| CredentialsError::Authorities(authorities.clone(), error);
                builder.with_client_cert_verifier(verifier.map_err(failed)?)
            }
        };
        let pair =
            |source| CredentialsError::Pair { certificate: self.certificate.clone(), key: self.key.clone(), source };
        let (own, key) = (certificates(&self.certificate)?, private_key(&self.key)?);
        let mut config = builder.with_single_cert(own, key).map_err(pair)?;
        // Every connection shows its certificate anew: one that has ended may not come back by a ticket.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// All of them.
    pub fn paths(&self) -> Vec<PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.authorities).cloned().collect()
    }

    /// The DNS names that the certificate is for.
    pub fn server_names(&self) -> Vec<String> {
        let own = certificates(&self.certificate).unwrap_or_default();
        let Some((_, parsed)) = own.first().and_then(|own| X509Certificate::from_der(own).ok()) else {
            return Vec::new();
        };
        let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
        let dns = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        };
        names.value.general_names.iter().filter_map(dns).collect()
    }
}

/// Authorities as a store to look them up in.
pub fn roots(authorities: &Path) -> Result<RootCertStore, CredentialsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities)? {
        roots.add(authority).map_err(|error| CredentialsError::Authority(authorities.to_owned(), error))?;
    }
    Ok(roots)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| CredentialsError::File(path.to_owned(), error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let failed = |error| CredentialsError::File(path.into(), error);
    let all: Vec<_> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if all.is_empty() { Err(CredentialsError::Empty(path.into())) } else { Ok(all) }
}

/// What a certificate lets its holder be. It has been found good; what is in it was chosen by an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Names of nodes.
    nodes: Vec<String>,
    /// It may ask what operators ask.
    pub is_operator: bool,
    /// It may look at what operators look at.
    pub is_reader: bool,
    /// For logs.
    pub subject: String,
}

impl Identity {
    /// Reads it off a certificate; nobody, if it cannot be read.
    ///
    /// Nodes are named by DNS names and by `framegate:node:NAME`, an operator by `framegate:operator`; the common name
    /// counts only where there are no other names at all (RFC 6125 §6.4.4).
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut this = Self { nodes: Vec::new(), is_operator: false, is_reader: false, subject: "unreadable".into() };
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return this };
        this.subject = parsed.subject().to_string().chars().take(SUBJECT_CHARS_MAX).collect();
        match parsed.subject_alternative_name() {
            Ok(Some(names)) => {
                for name in &names.value.general_names {
                    match name {
                        GeneralName::DNSName(name) => this.nodes.push((*name).to_owned()),
                        GeneralName::URI(uri) if *uri == OPERATOR => this.is_operator = true,
                        GeneralName::URI(uri) if *uri == READER => this.is_reader = true,
                        GeneralName::URI(uri) => this.nodes.extend(uri.strip_prefix(NODE).map(str::to_owned)),
                        _ => {}
                    }
                }
            }
            Ok(None) => {
                let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
                this.nodes.extend(common.map(str::to_owned));
            }
            Err(_) => {}
        }
        this
    }

    /// Whether it may be the node of this name.
    pub fn may_be(&self, node: &str) -> bool {
        self.nodes.iter().any(|name| name == node)
    }

    /// The names of nodes that it may be, in words.
    pub fn nodes(&self) -> String {
        if self.nodes.is_empty() { "no node".into() } else { self.nodes.join(", ") }
    }
}
