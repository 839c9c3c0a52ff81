//! Fetches the public keys of issuers elsewhere, and fetches them again: the last good set stays until a better one comes.
//!
//! One task for each URL. What is fetched goes through `jwks`, into the store, and from there with the next generation to
//! the data planes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::errors::with_sources;
use proto::limits::JWKS_BYTES_MAX;
use reqwest::StatusCode;
use reqwest::header::{CACHE_CONTROL, ETAG, HeaderMap, IF_NONE_MATCH};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::board::{Board, FetchStanding};
use super::{Fetch, jwks, ledger, outgoing};
use crate::compile::Tokens;
use crate::office::Office;
use crate::store::Store;

/// Sooner than this nobody's `max-age` has a set fetched again, unless the operator wants it so.
const AGE_MIN: Duration = Duration::from_secs(30);
/// And sooner than this nobody's tokens, whose key is not known, have it fetched.
const SOONER_MIN: Duration = Duration::from_secs(10);
/// How long is waited after a failure: this, then twice as long each time, up to the second.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LONGEST: Duration = Duration::from_secs(300);

/// Works for as long as the control plane runs.
pub async fn follow(
    store: Arc<Store>,
    office: Arc<Office>,
    board: Arc<Board>,
    mut tokens: watch::Receiver<Arc<Tokens>>,
) {
    let mut running: BTreeMap<String, (Wanted, Running)> = BTreeMap::new();
    let mut kept: Vec<String> = Vec::new();
    loop {
        let wanted = by_url(&tokens.borrow_and_update().fetches);
        running.retain(|url, (present, _)| wanted.get(url) == Some(present));
        for (url, wanted) in &wanted {
            if !running.contains_key(url) {
                let fetching = Fetching {
                    url: url.clone(),
                    wanted: wanted.clone(),
                    store: Arc::clone(&store),
                    office: Arc::clone(&office),
                    board: Arc::clone(&board),
                    standing: FetchStanding::default(),
                    etag: None,
                    unknown_keys: office.publisher().unknown_keys(),
                };
                let task = Running(tokio::spawn(fetching.run()));
                running.insert(url.clone(), (wanted.clone(), task));
            }
        }
        let urls: Vec<String> = running.keys().cloned().collect();
        board.forget_but(&urls);
        // A file that names no URL for a moment is no reason to lose the last good keys; what is named instead is.
        if !urls.is_empty() && urls != kept {
            kept.clone_from(&urls);
            let store = Arc::clone(&store);
            let forgetting = tokio::task::spawn_blocking(move || ledger::forget_fetched_but(&store, &urls));
            if let Ok(Err(error)) = forgetting.await {
                tracing::warn!(error = with_sources(&error), "keys of issuers that are gone stay in the store");
            }
        }
        if tokens.changed().await.is_err() {
            return;
        }
    }
}

/// Ends its task when it is dropped.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whose a set is, and how often it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    issuers: Vec<String>,
    every: Duration,
}

/// Issuers may share a set: it is fetched as often as the most eager one wants.
fn by_url(fetches: &[Fetch]) -> BTreeMap<String, Wanted> {
    let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
    for fetch in fetches {
        let entry = wanted.entry(fetch.url.clone());
        let one = entry.or_insert_with(|| Wanted { issuers: Vec::new(), every: fetch.every });
        one.issuers.push(fetch.issuer.clone());
        one.every = one.every.min(fetch.every);
    }
    wanted
}

struct Fetching {
    url: String,
    wanted: Wanted,
    store: Arc<Store>,
    office: Arc<Office>,
    board: Arc<Board>,
    standing: FetchStanding,
    etag: Option<String>,
    /// Steps when a node has met tokens whose key it does not know.
    unknown_keys: watch::Receiver<u64>,
}

/// What a server has said.
#[derive(Debug)]
enum Said {
    /// These bytes, this tag, and that they are good for so long.
    Set { body: Vec<u8>, etag: Option<String>, max_age: Option<Duration> },
    /// The same as before, good for so long.
    Same { max_age: Option<Duration> },
}

impl Fetching {
    async fn run(mut self) {
        self.standing.fetched = self.remembered().await;
        self.board.fetch(&self.url, self.standing.clone());
        let mut failures = 0;
        loop {
            // What is met from here on may be what this very fetch does not have yet.
            self.unknown_keys.mark_unchanged();
            let wait = match self.once().await {
                Ok(max_age) => {
                    if failures > 0 {
                        tracing::info!(issuers = ?self.wanted.issuers, url = self.url, "the issuer's keys can be fetched again");
                    }
                    failures = 0;
                    self.standing.fetched = Some(SystemTime::now());
                    self.standing.fault = None;
                    next_after(self.wanted.every, max_age)
                }
                Err(fault) => {
                    let wait = backoff(failures, self.wanted.every);
                    if self.standing.fault.as_ref() != Some(&fault) {
                        let has_keys = self.office.keys().fetched.contains_key(&self.url);
                        let kept =
                            if has_keys { "the last good ones stay" } else { "its tokens are refused until then" };
                        tracing::error!(issuers = ?self.wanted.issuers, url = self.url, fault, kept, "the issuer's keys cannot be fetched");
                    }
                    failures += 1;
                    self.standing.fault = Some(fault);
                    wait
                }
            };
            let wait = jittered(wait);
            self.standing.next = Some(SystemTime::now() + wait);
            self.board.fetch(&self.url, self.standing.clone());
            self.pause(wait, failures == 0).await;
        }
    }

    /// Waits so long; or, if that may be sooner, until somebody shows a token whose key is not known, though not less than the
    /// shortest time. Whoever does not answer is not asked more often because of what strangers show.
    async fn pause(&mut self, wait: Duration, may_be_sooner: bool) {
        let soonest = tokio::time::Instant::now() + SOONER_MIN.min(wait);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = self.unknown_keys.changed(), if may_be_sooner => tokio::time::sleep_until(soonest).await,
        }
    }

    /// When the set that is in use was fetched, if an earlier run has left it.
    async fn remembered(&self) -> Option<SystemTime> {
        let store = Arc::clone(&self.store);
        let all = tokio::task::spawn_blocking(move || ledger::fetched(&store)).await.ok()?.ok()?;
        all.get(&self.url).map(|(_, fetched_s)| UNIX_EPOCH + Duration::from_secs(*fetched_s))
    }

    /// Fetches, and puts to use what came; how long that is good, if the server says so. The error is a sentence.
    async fn once(&mut self) -> Result<Option<Duration>, String> {
        match tokio::time::timeout(outgoing::WITHIN, ask(&self.url, self.etag.as_deref())).await {
            Err(_) => Err(format!("no whole answer within {} seconds", outgoing::WITHIN.as_secs())),
            Ok(Err(fault)) => Err(fault),
            Ok(Ok(Said::Same { max_age })) => Ok(max_age),
            Ok(Ok(Said::Set { body, etag, max_age })) => {
                self.adopt(&body).await?;
                self.etag = etag;
                Ok(max_age)
            }
        }
    }

    async fn adopt(&self, body: &[u8]) -> Result<(), String> {
        let reading = jwks::read(body).map_err(|fault| format!("the set of keys {fault}"))?;
        let text = reading.set.text();
        let is_news = self.office.keys().fetched.get(&self.url) != Some(&text);
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (store, url, kept) = (Arc::clone(&self.store), self.url.clone(), text.clone());
        let keeping = tokio::task::spawn_blocking(move || ledger::keep_fetched(&store, &url, &kept, now_s)).await;
        if let Ok(Err(error)) = keeping {
            let error = with_sources(&error);
            tracing::error!(
                error,
                url = self.url,
                "the issuer's keys cannot be kept for the next start; they are used"
            );
        }
        if !is_news {
            return Ok(());
        }
        let keys = reading.set.keys.len();
        tracing::info!(issuers = ?self.wanted.issuers, url = self.url, keys, "an issuer's keys have been fetched");
        reading.warnings.iter().for_each(|one| tracing::warn!(url = self.url, "{one}"));
        let url = self.url.clone();
        let change = move |keys: &mut super::KeySets| _ = keys.fetched.insert(url, text);
        self.office.change_keys(change, "an issuer's keys have changed").await;
        Ok(())
    }
}

/// Asks once. The client is made anew, which is seldom: the host's authorities may have changed, and no connection idles.
async fn ask(url: &str, etag: Option<&str>) -> Result<Said, String> {
    let client = outgoing::client(outgoing::roots_of_the_host())?;
    let mut request = client.get(url).header("accept", "application/jwk-set+json, application/json");
    if let Some(etag) = etag {
        request = request.header(IF_NONE_MATCH, etag);
    }
    let mut response = request.send().await.map_err(|error| with_sources(&error.without_url()))?;
    let max_age = max_age(response.headers());
    match response.status() {
        StatusCode::NOT_MODIFIED if etag.is_some() => return Ok(Said::Same { max_age }),
        StatusCode::OK => {}
        status => return Err(format!("the answer is {status}")),
    }
    let etag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| with_sources(&error.without_url()))? {
        body.extend_from_slice(&chunk);
        if body.len() > JWKS_BYTES_MAX {
            return Err(format!("the set of keys has more than {JWKS_BYTES_MAX} bytes"));
        }
    }
    Ok(Said::Set { body, etag, max_age })
}

/// How long an answer is good, RFC 9111 §5.2.2; none: it does not say.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(',')).map(str::trim);
    directives.find_map(|directive| {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.to_ascii_lowercase().as_str() {
            "no-cache" | "no-store" => Some(Duration::ZERO),
            "max-age" => value.trim_matches('"').parse().ok().map(Duration::from_secs),
            _ => None,
        }
    })
}

/// When to fetch next: as the operator says, and sooner where the set is not good for so long.
fn next_after(every: Duration, max_age: Option<Duration>) -> Duration {
    max_age.map_or(every, |age| age.max(AGE_MIN).min(every))
}

fn backoff(failures: u32, every: Duration) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << failures.min(16));
    doubled.min(BACKOFF_LONGEST).min(every.max(BACKOFF_FIRST))
}

/// Up to a tenth less, so that many gateways do not come at once.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness they do.
    let _ = SystemRandom::new().fill(&mut byte);
    wait - wait.mul_f64(f64::from(byte[0]) / 2560.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_set_is_fetched_as_often_as_wanted_and_sooner_where_it_runs_out_sooner() {
        for (every, max_age, next) in [
            (300, None, 300),
            (300, Some(3600), 300),
            (300, Some(60), 60),
            (300, Some(0), 30),
            (5, Some(0), 5),
            (5, Some(600), 5),
        ] {
            assert_eq!(next_after(seconds(every), max_age.map(seconds)), seconds(next), "{every} {max_age:?}");
        }
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let waits: Vec<_> = (0..12).map(|failures| backoff(failures, seconds(600)).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(backoff(40, seconds(5)), seconds(5));
        assert_eq!(backoff(0, Duration::from_millis(100)), seconds(1));
        for _ in 0..1000 {
            let wait = jittered(seconds(10));
            assert!(wait <= seconds(10) && wait >= seconds(9), "{wait:?}");
        }
    }

    #[test]
    fn what_is_said_of_age_is_read() {
        let age = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, text.parse().unwrap());
            max_age(&headers)
        };
        assert_eq!(age("public, max-age=600, must-revalidate"), Some(seconds(600)));
        assert_eq!(age("Max-Age=\"7\""), Some(seconds(7)));
        assert_eq!(age("no-cache"), Some(Duration::ZERO));
        assert_eq!(age("max-age=soon"), None);
        assert_eq!(max_age(&HeaderMap::new()), None);
    }

    #[test]
    fn issuers_may_share_a_set() {
        let fetch =
            |issuer: &str, url: &str, every| Fetch { issuer: issuer.into(), url: url.into(), every: seconds(every) };
        let wanted =
            by_url(&[fetch("a", "https://x/", 300), fetch("b", "https://y/", 60), fetch("c", "https://x/", 30)]);
        assert_eq!(wanted.len(), 2);
        assert_eq!(wanted["https://x/"], Wanted { issuers: vec!["a".into(), "c".into()], every: seconds(30) });
    }
}
