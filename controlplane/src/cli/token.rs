//! `token get|inspect|revoke`: a client of a token endpoint, this gateway's or another one's; and `token rotate`, which is
//! for the operator of this one.
//!
//! Secrets come from files, standard input or the environment, never from the command line, which everybody on the host
//! can read.

mod rotate;

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::errors::with_sources;
use proto::limits::{JWKS_BYTES_MAX, TOKEN_BYTES_MAX};
use proto::snapshot::Timestamp;
use reqwest::{Client, Response};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value, json};

use super::table::{table, time};
use super::{Verdict, cannot, complain, print};
use crate::tokens::jwks::{self, KeySet};
use crate::tokens::jws::Jws;
use crate::tokens::outgoing;

/// Bytes of an answer of an endpoint.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a secret's file.
const SECRET_BYTES_MAX: u64 = 4096;

/// Options of `token`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 done, and what was inspected is good as far as it was looked at; 1 the endpoint says \
    no, or the token is not good; 2 the question could not be asked."
)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Ask a token endpoint for a token, and print it
    Get(Get),
    /// Show what a token says; the token is read from standard input
    Inspect(Inspect),
    /// Take a token back; the token is read from standard input
    Revoke(Revoke),
    /// Have this gateway's next signing key made and published now; for operators
    Rotate(rotate::Rotate),
}

/// Where the endpoint is.
#[derive(Debug, clap::Args)]
struct Place {
    /// The token endpoint's address, without /oauth2: https://gateway.example.com
    #[arg(long, env = "FRAMEGATE_TOKEN_ENDPOINT", value_name = "URL")]
    endpoint: String,
    /// Authorities, of which one must have signed the endpoint's certificate: a PEM file [default: those of the host]
    #[arg(long, env = "FRAMEGATE_TOKEN_AUTHORITIES", value_name = "FILE")]
    authorities: Option<PathBuf>,
}

/// Who asks.
#[derive(Debug, clap::Args)]
struct Who {
    /// The client's id
    #[arg(long, value_name = "ID")]
    client: String,
    /// The file with the client's secret, or - for standard input [default: the variable FRAMEGATE_CLIENT_SECRET]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// Options of `token get`.
#[derive(Debug, clap::Args)]
struct Get {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    who: Who,
    /// A scope to ask for; may be given several times [default: all that may be had]
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Ask for a token of this user, by password
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The file with the user's password, or - for standard input [default: the variable FRAMEGATE_PASSWORD]
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Ask with the refresh token in this file, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    refresh_file: Option<PathBuf>,
    /// Print the whole answer as one JSON document
    #[arg(long)]
    json: bool,
}

/// Options of `token inspect`.
#[derive(Debug, clap::Args)]
struct Inspect {
    /// Check the signature with the keys of this issuer: its address, without /oauth2
    #[arg(long, env = "FRAMEGATE_TOKEN_ENDPOINT", value_name = "URL")]
    endpoint: Option<String>,
    /// Authorities, of which one must have signed the endpoint's certificate: a PEM file [default: those of the host]
    #[arg(long, env = "FRAMEGATE_TOKEN_AUTHORITIES", value_name = "FILE")]
    authorities: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Options of `token revoke`.
#[derive(Debug, clap::Args)]
struct Revoke {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    who: Who,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Asks and shows.
pub fn run(options: Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return cannot(false, &format!("the runtime cannot be started: {error}")),
    };
    let (as_json, done) = match options.verb {
        Verb::Get(get) => (get.json, runtime.block_on(get.run())),
        Verb::Inspect(inspect) => (inspect.json, runtime.block_on(inspect.run())),
        Verb::Revoke(revoke) => (revoke.json, runtime.block_on(revoke.run())),
        Verb::Rotate(rotate) => return rotate.run(),
    };
    done.unwrap_or_else(|fault| cannot(as_json, &fault))
}

impl Get {
    async fn run(self) -> Result<ExitCode, String> {
        let mut form = vec![("client_id", self.who.client.clone()), ("client_secret", self.who.secret()?)];
        match (&self.user, &self.refresh_file) {
            (Some(user), _) => {
                let password = secret(self.password_file.as_deref(), "FRAMEGATE_PASSWORD", "--password-file")?;
                form.extend([("grant_type", "password".into()), ("username", user.clone()), ("password", password)]);
            }
            (None, Some(file)) => {
                let token = from_file(file)?;
                form.extend([("grant_type", "refresh_token".into()), ("refresh_token", token)]);
            }
            (None, None) => form.push(("grant_type", "client_credentials".into())),
        }
        if !self.scope.is_empty() {
            form.push(("scope", self.scope.join(" ")));
        }
        let (is_yes, answer) = self.place.post("token", &form).await?;
        if !is_yes {
            return Ok(refused(self.json, &answer));
        }
        let token = answer.get("access_token").and_then(Value::as_str).ok_or("the endpoint's answer has no token")?;
        let text = if self.json { answer.to_string() } else { token.to_owned() };
        print(&format!("{text}\n"));
        Ok(Verdict::Yes.into())
    }
}

impl Revoke {
    async fn run(self) -> Result<ExitCode, String> {
        if self.who.secret_file.as_deref() == Some(Path::new("-")) {
            return Err(
                "standard input has the token; put the secret into a file, or into FRAMEGATE_CLIENT_SECRET".into()
            );
        }
        let secret = self.who.secret()?;
        let token = from_file(Path::new("-"))?;
        let form = [("client_id", self.who.client.clone()), ("client_secret", secret), ("token", token)];
        let (is_yes, answer) = self.place.post("revoke", &form).await?;
        if !is_yes {
            return Ok(refused(self.json, &answer));
        }
        let text = if self.json { json!({ "revoked": true }).to_string() } else { "revoked".into() };
        print(&format!("{text}\n"));
        Ok(Verdict::Yes.into())
    }
}

impl Inspect {
    async fn run(self) -> Result<ExitCode, String> {
        let token = from_file(Path::new("-"))?;
        let Some(jws) = Jws::read(&token) else {
            return Err("this is no JWT: it has not three parts of base64url, or they are no JSON objects".into());
        };
        let signature = match self.endpoint {
            None => None,
            Some(endpoint) => {
                let place = Place { endpoint, authorities: self.authorities };
                Some(jws.is_signed_by(&place.keys().await?.keys))
            }
        };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_good = signature != Some(false) && !is_over(&jws.claims, now_s);
        if self.json {
            let document = json!({
                "header": jws.header, "claims": jws.claims, "signature": signature.map(word), "good": is_good,
            });
            print(&format!("{document}\n"));
        } else {
            print(&shown(&jws, signature, now_s));
        }
        Ok(Verdict::of(is_good).into())
    }
}

impl Who {
    fn secret(&self) -> Result<String, String> {
        secret(self.secret_file.as_deref(), "FRAMEGATE_CLIENT_SECRET", "--secret-file")
    }
}

impl Place {
    fn url(&self, page: &str) -> String {
        format!("{}/oauth2/{page}", self.endpoint.trim_end_matches('/'))
    }

    fn client(&self) -> Result<Client, String> {
        let Some(file) = &self.authorities else { return outgoing::client(outgoing::roots_of_the_host()) };
        let failed = |error: &dyn std::fmt::Display| format!("{} cannot be used: {error}", file.display());
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(file).map_err(|error| failed(&error))? {
            roots.add(root.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        }
        outgoing::client(roots)
    }

    /// Whether the endpoint says yes, and what else it says.
    async fn post(&self, page: &str, form: &[(&str, String)]) -> Result<(bool, Value), String> {
        let url = self.url(page);
        let asked = self.client()?.post(&url).form(form).send().await;
        let response = asked.map_err(|error| unreachable(&url, error))?;
        let status = response.status();
        let body = body(response, ANSWER_BYTES_MAX).await.map_err(|fault| format!("{url}: {fault}"))?;
        let answer = if body.is_empty() { Some(Value::Null) } else { serde_json::from_slice(&body).ok() };
        match answer {
            Some(answer) if status.is_success() || answer.get("error").is_some() => Ok((status.is_success(), answer)),
            _ => Err(format!("{url} is no token endpoint: it answers {status}")),
        }
    }

    async fn keys(&self) -> Result<KeySet, String> {
        let url = self.url("jwks");
        let response = self.client()?.get(&url).send().await.map_err(|error| unreachable(&url, error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("{url} answers {status}"));
        }
        let body = body(response, JWKS_BYTES_MAX).await.map_err(|fault| format!("{url}: {fault}"))?;
        let reading = jwks::read(&body).map_err(|fault| format!("{url}: the set of keys {fault}"))?;
        Ok(reading.set)
    }
}

fn unreachable(url: &str, error: reqwest::Error) -> String {
    format!("{url} cannot be asked: {}", with_sources(&error.without_url()))
}

async fn body(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| with_sources(&error.without_url()))? {
        body.extend_from_slice(&chunk);
        if body.len() > bytes_max {
            return Err(format!("the answer has more than {bytes_max} bytes"));
        }
    }
    Ok(body)
}

fn refused(as_json: bool, answer: &Value) -> ExitCode {
    if as_json {
        print(&format!("{answer}\n"));
    } else {
        let said = |member: &str| answer.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
        complain(&format!("the endpoint says no: {} ({})", said("error"), said("error_description")));
    }
    Verdict::No.into()
}

/// Of a file, or of a variable of the environment.
fn secret(file: Option<&Path>, variable: &str, flag: &str) -> Result<String, String> {
    match file {
        Some(file) => from_file(file),
        None => match std::env::var(variable) {
            Ok(secret) if !secret.is_empty() => Ok(secret),
            _ => Err(format!("a secret is needed: name its file with {flag}, or put it into {variable}")),
        },
    }
}

/// A file's text without the end of its line; `-` is standard input.
fn from_file(file: &Path) -> Result<String, String> {
    let limit = SECRET_BYTES_MAX.max(TOKEN_BYTES_MAX as u64) + 2;
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() { Err(format!("{} is empty", file.display())) } else { Ok(text.to_owned()) }
}

fn is_over(claims: &Map<String, Value>, now_s: u64) -> bool {
    let at = |name: &str| claims.get(name).and_then(Value::as_f64);
    at("exp").is_some_and(|exp| exp <= now_s as f64) || at("nbf").is_some_and(|nbf| nbf > now_s as f64)
}

fn word(is_good: bool) -> &'static str {
    if is_good { "good" } else { "bad" }
}

/// Header and claims, with times as people read them.
fn shown(jws: &Jws<'_>, signature: Option<bool>, now_s: u64) -> String {
    let mut rows = vec![vec!["HEADER".to_owned(), "VALUE".into()]];
    rows.extend(jws.header.iter().map(|(name, value)| vec![name.clone(), plain(value)]));
    let mut text = table(&rows);
    let mut rows = vec![vec!["CLAIM".to_owned(), "VALUE".into()]];
    rows.extend(jws.claims.iter().map(|(name, value)| {
        let time = value.as_u64().filter(|_| matches!(name.as_str(), "exp" | "iat" | "nbf" | "auth_time"));
        vec![name.clone(), time.map_or_else(|| plain(value), |at| moment(at, now_s))]
    }));
    let _ = write!(text, "\n{}\n", table(&rows));
    let signature = signature.map_or("not looked at; --endpoint names whose keys to ask for", word);
    let _ = writeln!(text, "signature  {signature}");
    if is_over(&jws.claims, now_s) {
        let _ = writeln!(text, "           not valid now");
    }
    text
}

fn moment(at_s: u64, now_s: u64) -> String {
    let written = Timestamp::from_secs(at_s);
    match at_s.checked_sub(now_s) {
        Some(left) => format!("{written} (in {})", time(left)),
        None => format!("{written} ({} ago)", time(now_s - at_s)),
    }
}

/// A text as it is, without what would move a terminal's cursor; anything else as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_with_times_that_people_read() {
        // {"alg":"none"}.{"sub":"a\u001b[2J","exp":100,"scope":["x"]}
        let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhXHUwMDFiWzJKIiwiZXhwIjoxMDAsInNjb3BlIjpbIngiXX0.AA";
        let jws = Jws::read(token).unwrap();
        let text = shown(&jws, None, 40);
        assert!(text.contains("exp    1970-01-01T00:01:40Z (in 1m 0s)"), "{text}");
        assert!(text.contains("sub    a[2J\n") && text.contains("[\"x\"]"), "{text}");
        assert!(!is_over(&jws.claims, 99) && is_over(&jws.claims, 100));
        assert!(shown(&jws, Some(false), 160).contains("(1m 0s ago)"));
    }
}
