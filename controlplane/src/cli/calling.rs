//! The admin API as the command line asks it: where it is, who we are there, and one request with its answer.
//!
//! What is asked, and how the answer is shown, is each verb's.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use proto::control::Address;
use proto::errors::with_sources;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, IF_MATCH};
use reqwest::{Method, Url};
use rustls::ClientConfig;
use rustls::version::TLS13;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use super::doors::SOCKET;
use super::{Verdict, cannot, complain, default_control, print};
use crate::admin::query::encode;
use crate::credentials::{self, CredentialsError};

/// How long a connection may take to be made, and an answer to come: it may wait for nodes for a minute.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
/// Bytes of an answer: a page of the largest objects.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of a file with a token.
const TOKEN_BYTES_MAX: usize = 4096;

/// Options of every verb that asks the admin API.
#[derive(Debug, Clone, clap::Args)]
pub struct Calling {
    /// Where the admin API is: a Unix socket, https://HOST:PORT, or http:// on loopback [default: admin.sock beside the
    /// control socket]
    #[arg(long, env = "FRAMEGATE_ADMIN", value_name = "PATH|URL")]
    admin: Option<String>,
    /// The control socket, beside which the admin socket is
    #[arg(long, env = "FRAMEGATE_CONTROL", value_name = "PATH")]
    control: Option<Address>,
    /// A file whose first line is the token for a URL; FRAMEGATE_ADMIN_TOKEN may hold the token itself
    #[arg(long, env = "FRAMEGATE_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// The operator's certificate for https://, with the URI name framegate:operator: a PEM file
    #[arg(long, env = "FRAMEGATE_ADMIN_CERTIFICATE", value_name = "FILE")]
    admin_certificate: Option<PathBuf>,
    /// The private key of that certificate: a PEM file
    #[arg(long, env = "FRAMEGATE_ADMIN_KEY", value_name = "FILE")]
    admin_key: Option<PathBuf>,
    /// The authorities, of which one must have signed the admin port's certificate [default: the system's]
    #[arg(long, env = "FRAMEGATE_ADMIN_AUTHORITIES", value_name = "FILE")]
    admin_authorities: Option<PathBuf>,
    /// Print the answer as one JSON document
    #[arg(long)]
    json: bool,
}

/// Options of every verb that changes something.
#[derive(Debug, Clone, clap::Args)]
pub struct Writing {
    #[command(flatten)]
    pub calling: Calling,
    /// Answer when every connected data plane has said what became of the change
    #[arg(long)]
    wait: bool,
    /// How long to wait for that [default: 5s]
    #[arg(long, value_name = "DURATION", requires = "wait")]
    timeout: Option<proto::snapshot::Duration>,
}

impl Writing {
    /// The query that says so.
    pub fn query(&self) -> Vec<(&'static str, String)> {
        let wait = self.wait.then(|| ("wait", "applied".to_owned()));
        let timeout = self.timeout.map(|timeout| ("timeout", format!("{}ms", timeout.as_ms())));
        wait.into_iter().chain(timeout).collect()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error(
        "no admin API answers on {0}; is `framegate run` or `framegate controlplane` running? (--admin or FRAMEGATE_ADMIN \
         names another place)"
    )]
    Nobody(String),
    /// The address is none.
    #[error(
        "{0:?} is no place of an admin API; write the path of a socket, https://HOST:PORT, or http://127.0.0.1:PORT"
    )]
    Place(String),
    /// A token in clear over a network.
    #[error("{0} is not on loopback, so a token would be sent there in clear; use https://")]
    InClear(String),
    /// The certificates are of no use.
    #[error("the certificates for the admin API are of no use")]
    Credentials(#[from] CredentialsError),
    /// A file is of no use.
    #[error("{} cannot be read", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// The connection failed.
    #[error("the admin API on {place} cannot be asked")]
    Http {
        /// Where it is.
        place: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// What came is no answer of ours.
    #[error("the answer of {0} is not understood; is it the admin API, and of the same version?")]
    Answer(String),
    /// The runtime.
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
    /// The admin API does not do it.
    #[error("{}", sentence(.0))]
    Problem(Value),
    /// Something else that the person must hear.
    #[error("{0}")]
    Said(String),
}

/// A problem document as lines for a person.
fn sentence(problem: &Value) -> String {
    let mut text = problem["detail"].as_str().or(problem["title"].as_str()).unwrap_or("the answer is no").to_owned();
    for error in problem["errors"].as_array().into_iter().flatten() {
        let (pointer, detail) =
            (error["pointer"].as_str().unwrap_or_default(), error["detail"].as_str().unwrap_or_default());
        let place = pointer.trim_start_matches('/').replace('/', ".");
        let colon = if place.is_empty() { "" } else { ": " };
        text.push_str(&format!("\n  {place}{colon}{detail}"));
    }
    text
}

impl CallError {
    /// Whether the answer is no, or the question could not be asked.
    fn verdict(&self) -> Verdict {
        match self {
            Self::Problem(problem) => match problem["status"].as_u64() {
                Some(404 | 409 | 412 | 413 | 422) => Verdict::No,
                _ => Verdict::Unknown,
            },
            _ => Verdict::Unknown,
        }
    }
}

/// An answer that is a yes.
#[derive(Debug)]
pub struct Answer {
    /// The document; null where there is none.
    pub body: Value,
}

/// A condition of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum If {
    /// None.
    Always,
    /// The object still has this entity tag.
    Match(String),
}

/// A place to ask.
pub struct Client {
    http: reqwest::Client,
    base: String,
    place: String,
    token: Option<HeaderValue>,
}

impl Calling {
    /// Whether the answer is wanted as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Asks, and ends with what came of it: the text that `work` makes of the answer, or what went wrong.
    pub fn run<F>(&self, work: impl FnOnce(Client) -> F) -> ExitCode
    where
        F: Future<Output = Result<(String, bool), CallError>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = runtime
            .map_err(CallError::Runtime)
            .and_then(|runtime| self.client().and_then(|client| runtime.block_on(work(client))));
        match done {
            Ok((text, is_yes)) => {
                print(&text);
                Verdict::of(is_yes).into()
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Tells an error.
    pub fn failed(&self, error: &CallError) -> ExitCode {
        match (error, error.verdict()) {
            (CallError::Problem(problem), verdict) if self.json => {
                print(&format!("{problem}\n"));
                verdict.into()
            }
            (_, Verdict::Unknown) => cannot(self.json, &with_sources(error)),
            (_, verdict) => {
                complain(&with_sources(error));
                verdict.into()
            }
        }
    }

    /// The place to ask.
    fn client(&self) -> Result<Client, CallError> {
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .tls_backend_preconfigured(self.tls()?);
        let made = |builder: reqwest::ClientBuilder, place: &str| {
            builder.build().map_err(|source| CallError::Http { place: place.to_owned(), source })
        };
        let place = self.place();
        if !place.contains("://") {
            let http = made(builder.unix_socket(PathBuf::from(&place)), &place)?;
            return Ok(Client { http, base: "http://localhost".into(), place, token: None });
        }
        let url = Url::parse(&place).map_err(|_| CallError::Place(place.clone()))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_near =
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        match url.scheme() {
            "https" => {}
            "http" if is_near => {}
            "http" => return Err(CallError::InClear(place)),
            _ => return Err(CallError::Place(place)),
        }
        let token = self.token()?;
        Ok(Client { http: made(builder, &place)?, base: place.trim_end_matches('/').to_owned(), place, token })
    }

    fn place(&self) -> String {
        let beside = |path: &Path| path.with_file_name(SOCKET).display().to_string();
        match (&self.admin, &self.control) {
            (Some(place), _) => place.clone(),
            (None, Some(Address::Unix(path))) => beside(path),
            (None, _) => beside(&default_control()),
        }
    }

    fn token(&self) -> Result<Option<HeaderValue>, CallError> {
        let token = match &self.admin_token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| CallError::File(path.clone(), error))?;
                text.lines().next().map(|line| line.trim().to_owned())
            }
            None => std::env::var("FRAMEGATE_ADMIN_TOKEN").ok(),
        };
        let Some(token) = token.filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX) else {
            return Ok(None);
        };
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| CallError::Said("the admin token has characters that no header may have".into()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn tls(&self) -> Result<ClientConfig, CallError> {
        let version = CredentialsError::Version;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).map_err(version)?;
        let roots = match &self.admin_authorities {
            Some(authorities) => credentials::roots(authorities)?,
            None => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add_parsable_certificates(system_roots());
                roots
            }
        };
        let builder = builder.with_root_certificates(roots);
        let (Some(certificate), Some(key)) = (&self.admin_certificate, &self.admin_key) else {
            return Ok(builder.with_no_client_auth());
        };
        let file = |path: &PathBuf, error| CredentialsError::File(path.clone(), error);
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(certificate).map_err(|error| file(certificate, error))?.collect();
        let chain = chain.map_err(|error| file(certificate, error))?;
        let own = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, error))?;
        let pair = |source| CredentialsError::Pair { certificate: certificate.clone(), key: key.clone(), source };
        Ok(builder.with_client_auth_cert(chain, own).map_err(pair)?)
    }
}

/// The operating system's authorities, where distributions keep them in one file, or where SSL_CERT_FILE says.
fn system_roots() -> Vec<CertificateDer<'static>> {
    let said = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let all = said.into_iter().chain(usual.map(PathBuf::from));
    let read =
        |path: PathBuf| Some(CertificateDer::pem_file_iter(path).ok()?.filter_map(Result::ok).collect::<Vec<_>>());
    all.filter_map(read).next().unwrap_or_default()
}

impl Client {
    /// One request to a path of the API: segments, which are encoded, below `/api/v1`.
    pub async fn ask(
        &self,
        method: Method,
        segments: &[&str],
        query: &[(&'static str, String)],
        condition: If,
        body: Option<&Value>,
    ) -> Result<Answer, CallError> {
        let path: String = segments.iter().map(|segment| format!("/{}", encode(segment))).collect();
        let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        let url = format!("{}/api/v1{path}{mark}{}", self.base, pairs.join("&"));
        let mut request = self.http.request(method.clone(), url).header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        request = match condition {
            If::Always => request,
            If::Match(tag) if tag == "*" => request.header(IF_MATCH, tag),
            If::Match(tag) => request.header(IF_MATCH, format!("\"{}\"", tag.trim_matches('"'))),
        };
        if let Some(body) = body {
            let media_type = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
            request = request.header(CONTENT_TYPE, media_type).body(body.to_string());
        }
        let response = request.send().await.map_err(|error| self.failed(error))?;
        let status = response.status();
        let text = self.text(response).await?;
        let document = || serde_json::from_slice(&text).map_err(|_| CallError::Answer(self.place.clone()));
        if status.is_success() {
            let body = if text.is_empty() { Value::Null } else { document()? };
            return Ok(Answer { body });
        }
        let problem: Value = document()?;
        if problem["type"].is_string() {
            Err(CallError::Problem(problem))
        } else {
            Err(CallError::Answer(self.place.clone()))
        }
    }

    async fn text(&self, mut response: reqwest::Response) -> Result<Vec<u8>, CallError> {
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if text.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(CallError::Answer(self.place.clone()));
            }
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    }

    fn failed(&self, error: reqwest::Error) -> CallError {
        if error.is_connect() && is_absent(&error) {
            return CallError::Nobody(self.place.clone());
        }
        CallError::Http { place: self.place.clone(), source: error.without_url() }
    }
}

/// Whether nobody listens, rather than something being wrong with whoever does.
fn is_absent(error: &reqwest::Error) -> bool {
    use std::error::Error as _;
    let chain = std::iter::successors(error.source(), |one| (*one).source());
    chain
        .filter_map(|one| one.downcast_ref::<std::io::Error>())
        .any(|one| matches!(one.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused))
}

/// One JSON document on standard output.
pub fn as_json(value: &Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(value).unwrap_or_else(|_| json!(null).to_string()))
}
