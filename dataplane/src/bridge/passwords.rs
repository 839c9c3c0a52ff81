//! Passwords: whether one is the user's, without a worker waiting for it.
//!
//! A check is Argon2's: some 20 ms of a CPU and 19 MB, so two are made at a time and few wait. What came of one is known
//! for a while, under a keyed hash of all that was compared; a name that nobody has costs the same as one that somebody
//! has. Who may do what with a good password is not asked here.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::phc;
use argon2::{Argon2, Params, PasswordVerifier, password_hash};
use proto::limits::{PASSWORD_CHECKS_MAX, PASSWORD_MEMORY_KIB_MAX, PASSWORD_WAITING_MAX, PASSWORDS_KNOWN_MAX};
use proto::snapshot::PasswordHash;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Checks at one time.
const CHECKS_AT_ONCE: usize = 2;
/// How long a good password is known to be one; a password that was changed is another question.
const GOOD_FOR: Duration = Duration::from_secs(300);
/// And how long a wrong one to be wrong.
const WRONG_FOR: Duration = Duration::from_secs(10);
/// What the password of somebody unknown is compared with: the parameters are those of `framegate user hash`.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What was compared, as far as it can be kept.
pub type Fingerprint = [u8; 32];

/// Nobody can say now whether a password is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the password cannot be checked now")]
pub struct Unchecked;

/// Passwords, for workers.
#[derive(Debug, Clone)]
pub struct Passwords {
    shared: Arc<Shared>,
    ask: mpsc::Sender<Check>,
}

#[derive(Debug)]
struct Shared {
    /// Of this process alone, so that nobody can make out a password of what is kept of it.
    key: hmac::Key,
    known: Mutex<HashMap<Fingerprint, (bool, Instant)>>,
    counts: Arc<PasswordCounts>,
}

/// A question to the bridge. Has no `Debug`, because it would show the password.
struct Check {
    fingerprint: Fingerprint,
    password: Box<str>,
    stored: Box<str>,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<bool, Unchecked>>;

/// Questions on their way to the bridge.
pub(super) struct Checks {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Check>,
}

/// What came of checks since start.
#[derive(Debug, Default)]
pub struct PasswordCounts {
    good: AtomicU64,
    wrong: AtomicU64,
    remembered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl PasswordCounts {
    /// By their outcome's label.
    pub fn by_outcome(&self) -> [(&'static str, u64); 5] {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        [
            ("good", count(&self.good)),
            ("wrong", count(&self.wrong)),
            ("remembered", count(&self.remembered)),
            ("refused", count(&self.refused)),
            ("failed", count(&self.failed)),
        ]
    }
}

impl Shared {
    /// Sound between any two calls, so a panic elsewhere does not spoil it.
    fn known(&self) -> MutexGuard<'_, HashMap<Fingerprint, (bool, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, fingerprint: &Fingerprint, now: Instant) -> Option<bool> {
        self.known().get(fingerprint).filter(|(_, until)| now < *until).map(|(is_good, _)| *is_good)
    }

    fn keep(&self, fingerprint: Fingerprint, is_good: bool, now: Instant) {
        let mut known = self.known();
        if known.len() >= PASSWORDS_KNOWN_MAX {
            known.retain(|_, (_, until)| now < *until);
            if known.len() >= PASSWORDS_KNOWN_MAX {
                known.clear();
            }
        }
        known.insert(fingerprint, (is_good, now + if is_good { GOOD_FOR } else { WRONG_FOR }));
    }
}

impl Passwords {
    pub(super) fn new() -> Result<(Self, Checks), ring::error::Unspecified> {
        let (ask, queue) = mpsc::channel(PASSWORD_WAITING_MAX);
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?;
        let shared = Arc::new(Shared { key, known: Mutex::default(), counts: Arc::default() });
        Ok((Self { shared: Arc::clone(&shared), ask }, Checks { shared, queue }))
    }

    pub(super) fn counts(&self) -> Arc<PasswordCounts> {
        Arc::clone(&self.shared.counts)
    }

    /// What a password of this user is known by.
    pub fn fingerprint(&self, user: &str, password: &str, stored: Option<&PasswordHash>) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.shared.key);
        for part in [user, password, stored.map_or("", |hash| &hash.0)] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// Whether the password is good, if that is known; asked without waiting.
    pub fn known(&self, fingerprint: &Fingerprint, now: Instant) -> Option<bool> {
        let known = self.shared.look(fingerprint, now)?;
        self.shared.counts.remembered.fetch_add(1, Relaxed);
        Some(known)
    }

    /// Has the bridge compare the password with what is stored of the user's; of nobody's it is false, and takes as long.
    pub async fn check(
        &self,
        fingerprint: Fingerprint,
        password: Box<str>,
        stored: Option<PasswordHash>,
    ) -> Result<bool, Unchecked> {
        let is_somebodys = stored.is_some();
        let stored = stored.map_or_else(|| NOBODYS.into(), |hash| hash.0.into());
        let (answer, reply) = oneshot::channel();
        if self.ask.try_send(Check { fingerprint, password, stored, answer }).is_err() {
            self.shared.counts.refused.fetch_add(1, Relaxed);
            return Err(Unchecked);
        }
        reply.await.unwrap_or(Err(Unchecked)).map(|is_good| is_good && is_somebodys)
    }
}

/// Answers questions until the last handle is gone.
pub(super) async fn serve(checks: &mut Checks) {
    let mut desk = Desk {
        shared: Arc::clone(&checks.shared),
        waiting: HashMap::new(),
        next: VecDeque::new(),
        under_way: JoinSet::new(),
    };
    loop {
        tokio::select! {
            check = checks.queue.recv() => match check {
                Some(check) => desk.take(check),
                None => return,
            },
            Some(finished) = desk.under_way.join_next() => match finished {
                Ok((fingerprint, outcome)) => desk.finish(&fingerprint, outcome),
                Err(error) => tracing::error!(%error, "a password check failed"),
            },
        }
        desk.begin();
    }
}

/// Checks that are under way, and who waits for them.
struct Desk {
    shared: Arc<Shared>,
    waiting: HashMap<Fingerprint, Vec<Answer>>,
    next: VecDeque<(Fingerprint, Box<str>, Box<str>)>,
    under_way: JoinSet<(Fingerprint, Option<bool>)>,
}

impl Desk {
    fn take(&mut self, check: Check) {
        let Check { fingerprint, password, stored, answer } = check;
        // Somebody else's check may have ended since the worker looked.
        if let Some(is_good) = self.shared.look(&fingerprint, Instant::now()) {
            _ = answer.send(Ok(is_good));
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(&fingerprint)
            && waiting.len() < PASSWORD_WAITING_MAX
        {
            return waiting.push(answer);
        }
        if self.next.len() >= PASSWORD_CHECKS_MAX || self.waiting.contains_key(&fingerprint) {
            self.shared.counts.refused.fetch_add(1, Relaxed);
            _ = answer.send(Err(Unchecked));
            return;
        }
        self.waiting.insert(fingerprint, vec![answer]);
        self.next.push_back((fingerprint, password, stored));
    }

    fn begin(&mut self) {
        while self.under_way.len() < CHECKS_AT_ONCE
            && let Some((fingerprint, password, stored)) = self.next.pop_front()
        {
            self.under_way.spawn_blocking(move || {
                let compare = std::panic::AssertUnwindSafe(|| compare(&password, &stored));
                (fingerprint, std::panic::catch_unwind(compare).unwrap_or(None))
            });
        }
    }

    fn finish(&mut self, fingerprint: &Fingerprint, outcome: Option<bool>) {
        let counts = &self.shared.counts;
        let counter = match outcome {
            Some(true) => &counts.good,
            Some(false) => &counts.wrong,
            None => &counts.failed,
        };
        counter.fetch_add(1, Relaxed);
        if let Some(is_good) = outcome {
            self.shared.keep(*fingerprint, is_good, Instant::now());
        }
        for answer in self.waiting.remove(fingerprint).into_iter().flatten() {
            // Who asked may have given up.
            let _ = answer.send(outcome.ok_or(Unchecked));
        }
    }
}

/// Whether the password is the one that was hashed; `None` if that cannot be said.
fn compare(password: &str, stored: &str) -> Option<bool> {
    let hash = phc::PasswordHash::new(stored).ok()?;
    let memory_kib = Params::try_from(&hash).ok()?.m_cost();
    if memory_kib > PASSWORD_MEMORY_KIB_MAX {
        tracing::warn!("a password's hash asks for {memory_kib} KiB; {PASSWORD_MEMORY_KIB_MAX} are allowed");
        return None;
    }
    match Argon2::default().verify_password(password.as_bytes(), &hash) {
        Ok(()) => Some(true),
        Err(password_hash::Error::PasswordInvalid) => Some(false),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "open sesame", with little memory so that tests are quick.
    const STORED: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$";

    fn stored() -> PasswordHash {
        let mut out = [0; 32];
        let params = Params::new(64, 1, 1, None).unwrap();
        Argon2::from(params).hash_password_into(b"open sesame", b"somesaltsomesalt", &mut out).unwrap();
        use base64::Engine as _;
        PasswordHash(format!("{STORED}{}", base64::engine::general_purpose::STANDARD_NO_PAD.encode(out)))
    }

    fn on_the_bridge<T>(work: impl AsyncFnOnce(&Passwords) -> T) -> T {
        let (passwords, mut checks) = Passwords::new().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                () = serve(&mut checks) => unreachable!("a handle is there"),
                done = work(&passwords) => done,
            }
        })
    }

    async fn check(passwords: &Passwords, user: &str, password: &str, stored: Option<PasswordHash>) -> (bool, bool) {
        let fingerprint = passwords.fingerprint(user, password, stored.as_ref());
        let known = passwords.known(&fingerprint, Instant::now());
        let is_good = passwords.check(fingerprint, password.into(), stored).await.unwrap();
        (known.is_some(), is_good)
    }

    #[test]
    fn a_password_is_compared_once_and_then_known() {
        on_the_bridge(async |passwords| {
            for (round, is_known) in [(1, false), (2, true)] {
                assert_eq!(check(passwords, "alice", "open sesame", Some(stored())).await, (is_known, true), "{round}");
                assert_eq!(check(passwords, "alice", "close sesame", Some(stored())).await, (is_known, false));
                assert_eq!(check(passwords, "bob", "open sesame", None).await, (is_known, false), "nobody's");
            }
            let counts = passwords.counts().by_outcome().map(|(_, count)| count);
            assert_eq!(counts, [1, 2, 3, 0, 0]);
            assert_ne!(
                passwords.fingerprint("ab", "c", None),
                passwords.fingerprint("a", "bc", None),
                "parts do not run into each other"
            );
        });
    }

    #[test]
    fn what_is_known_is_forgotten_in_time() {
        let (passwords, checks) = Passwords::new().unwrap();
        let (good, wrong, now) = ([1; 32], [2; 32], Instant::now());
        checks.shared.keep(good, true, now);
        checks.shared.keep(wrong, false, now);
        for (after, expected) in
            [(Duration::ZERO, (Some(true), Some(false))), (WRONG_FOR, (Some(true), None)), (GOOD_FOR, (None, None))]
        {
            assert_eq!((passwords.known(&good, now + after), passwords.known(&wrong, now + after)), expected);
        }
        for number in 0..2 * PASSWORDS_KNOWN_MAX as u64 {
            let mut fingerprint = [0; 32];
            fingerprint[..8].copy_from_slice(&number.to_le_bytes());
            checks.shared.keep(fingerprint, true, now);
            assert!(checks.shared.known().len() <= PASSWORDS_KNOWN_MAX);
        }
    }

    #[test]
    fn a_hash_that_cannot_be_used_lets_nobody_in() {
        for stored in ["", "$argon2id$", "$2b$12$abc", "$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$AAAA"] {
            assert_eq!(compare("x", stored), None, "{stored}");
        }
        assert_eq!(compare("x", NOBODYS), Some(false), "what stands for nobody is a hash like any other");
    }

    #[test]
    fn those_who_ask_the_same_share_an_answer_and_a_crowd_is_refused() {
        on_the_bridge(async |passwords| {
            let same = (0..100).map(|_| check(passwords, "alice", "open sesame", Some(stored())));
            for (_, is_good) in join_all(same).await {
                assert!(is_good);
            }
            assert_eq!(passwords.counts().by_outcome()[0], ("good", 1));
            let different = (0..PASSWORD_CHECKS_MAX + 100).map(async |number| {
                let password = number.to_string();
                let fingerprint = passwords.fingerprint("alice", &password, None);
                passwords.check(fingerprint, password.into(), Some(stored())).await
            });
            let refused = join_all(different).await.into_iter().filter(Result::is_err).count();
            assert!(refused > 0, "{refused}");
        });
    }

    async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
        let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
        std::future::poll_fn(move |context| {
            let mut is_ready = true;
            for (future, done) in &mut futures {
                if done.is_none() {
                    match future.as_mut().poll(context) {
                        std::task::Poll::Ready(value) => *done = Some(value),
                        std::task::Poll::Pending => is_ready = false,
                    }
                }
            }
            if is_ready {
                std::task::Poll::Ready(futures.iter_mut().filter_map(|(_, done)| done.take()).collect())
            } else {
                std::task::Poll::Pending
            }
        })
        .await
    }
}
