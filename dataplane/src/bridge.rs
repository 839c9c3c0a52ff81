//! The bridge thread: what a worker must not wait for itself. It resolves names, compares passwords, asks issuers about
//! tokens and services that decide for policies, and answers operators.
//!
//! One thread with a tokio runtime of its own. The process serves without it: when it fails it is started again, names
//! that workers hold already stay good, and no session notices.

mod callers;
mod forward_auth;
mod introspect;
mod operator;
mod passwords;
mod resolve;

pub use forward_auth::{Answer, Call, CallError, ForwardAuth, ForwardAuthCounts};
pub use introspect::{Heard, IntrospectionCounts, Introspector, Silence, TokenName};
pub use operator::{BindError, bind};
pub use passwords::{Fingerprint, PasswordCounts, Passwords, Unchecked};
pub use resolve::{NameServers, ResolveError, Resolver, ResolverCounts};

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::watch;

use crate::health::Health;
use crate::record::{Log, Record};

/// How long the bridge rests after a fault.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What the bridge needs from the process.
#[derive(Debug)]
pub struct Parts {
    /// The operator listener, from [`bind`]; `None` where it is off.
    pub operator: Option<TcpListener>,
    /// Host names under which operators may call, beside addresses, `localhost` and the node's name.
    pub operator_hosts: Vec<String>,
    /// The node's name.
    pub node: String,
    /// For `/metrics`.
    pub record: Record,
    /// For `/ready` and `/metrics`.
    pub health: Arc<Health>,
    /// For `/metrics`.
    pub log: Log,
    /// Who is asked for names.
    pub name_servers: NameServers,
}

/// Credentials that a worker cannot judge by itself.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Passwords.
    pub passwords: Passwords,
    /// Opaque tokens.
    pub introspector: Introspector,
}

#[cfg(test)]
impl Credentials {
    /// Of a bridge that is not there: what is asked of it stays unanswered.
    pub(crate) fn of_nobody() -> Self {
        let (passwords, _) = Passwords::new().expect("there is randomness");
        Self { passwords, introspector: Introspector::new().0 }
    }
}

/// What came of what the bridge was asked.
#[derive(Debug, Clone, Default)]
pub struct BridgeCounts {
    /// Of names.
    pub names: Arc<ResolverCounts>,
    /// Of services that decide for policies.
    pub forward_auth: Arc<ForwardAuthCounts>,
    /// Of passwords.
    pub passwords: Arc<PasswordCounts>,
    /// Of opaque tokens.
    pub introspections: Arc<IntrospectionCounts>,
}

/// Questions on their way to the bridge.
struct Questions {
    names: resolve::Questions,
    passwords: passwords::Checks,
    tokens: introspect::Inquiries,
    calls: forward_auth::Questions,
}

/// The running bridge.
#[derive(Debug)]
pub struct Bridge {
    resolver: Resolver,
    forward_auth: ForwardAuth,
    credentials: Credentials,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Bridge {
    /// Starts the thread.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let (resolver, names) = Resolver::new();
        let (passwords, checks) = Passwords::new().map_err(|_| io::Error::other("there is no randomness"))?;
        let (introspector, inquiries) = Introspector::new();
        let (forward_auth, calls) = ForwardAuth::new();
        let mut questions = Questions { names, passwords: checks, tokens: inquiries, calls };
        let credentials = Credentials { passwords, introspector };
        let desk = Arc::new(operator::Desk {
            hosts: parts.operator_hosts,
            node: parts.node,
            record: parts.record,
            health: Arc::clone(&parts.health),
            log: parts.log,
            counts: BridgeCounts {
                names: resolver.counts(),
                forward_auth: forward_auth.counts(),
                passwords: credentials.passwords.counts(),
                introspections: credentials.introspector.counts(),
            },
        });
        if let Some(listener) = &parts.operator {
            listener.set_nonblocking(true)?;
        }
        let (stop, stopped) = watch::channel(false);
        let health = parts.health;
        let (listener, name_servers) = (parts.operator, parts.name_servers);
        let for_thread = resolver.clone();
        let thread = thread::Builder::new().name("bridge".into()).spawn(move || {
            let round = || {
                let operator = listener.as_ref().map(TcpListener::try_clone).transpose()?;
                run(operator, &desk, &mut questions, &for_thread, &name_servers, stopped.clone())
            };
            supervise(round, &health, RESTART_PAUSE, || *stopped.borrow());
        })?;
        Ok(Self { resolver, forward_auth, credentials, stop, thread })
    }

    /// For workers.
    pub fn resolver(&self) -> Resolver {
        self.resolver.clone()
    }

    /// For workers.
    pub fn forward_auth(&self) -> ForwardAuth {
        self.forward_auth.clone()
    }

    /// For workers.
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// Ends the thread: operators' connections are cut, questions that wait are answered with an error.
    pub fn stop(self) {
        // The receiver is gone only if the thread is.
        let _ = self.stop.send(true);
        if self.thread.join().is_err() {
            tracing::error!("the bridge thread panicked");
        }
    }
}

/// Calls `round` until it ends well or is no longer wanted. A panic in it is a fault of ours, and no session's concern.
fn supervise(
    mut round: impl FnMut() -> io::Result<()>,
    health: &Health,
    pause: Duration,
    is_stopped: impl Fn() -> bool,
) {
    loop {
        match catch_unwind(AssertUnwindSafe(&mut round)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::error!(%error, "the bridge failed and is started again"),
            Err(_) => tracing::error!("the bridge panicked and is started again"),
        }
        health.bridge_restarts.fetch_add(1, Relaxed);
        thread::sleep(pause);
        if is_stopped() {
            return;
        }
    }
}

fn run(
    operator: Option<TcpListener>,
    desk: &Arc<operator::Desk>,
    questions: &mut Questions,
    resolver: &Resolver,
    name_servers: &NameServers,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    runtime.block_on(async {
        let operators = async {
            match operator {
                Some(listener) => operator::serve(tokio::net::TcpListener::from_std(listener)?, desk).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = operators => result,
            () = resolve::serve(&mut questions.names, name_servers) => Ok(()),
            () = passwords::serve(&mut questions.passwords) => Ok(()),
            () = introspect::serve(&mut questions.tokens, resolver) => Ok(()),
            () = forward_auth::serve(&mut questions.calls, resolver) => Ok(()),
            _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;

    #[test]
    fn a_bridge_that_fails_or_panics_is_started_again_until_it_is_stopped() {
        let health = Health::new(Instant::now(), SystemTime::now());
        let mut rounds = 0;
        let round = || {
            rounds += 1;
            match rounds {
                1 => Err(io::Error::other("no descriptors")),
                2 => panic!("a fault of ours, as the test wants it"),
                _ => Ok(()),
            }
        };
        supervise(round, &health, Duration::ZERO, || false);
        assert_eq!((rounds, health.bridge_restarts.load(Relaxed)), (3, 2));
        supervise(|| Err(io::Error::other("again")), &health, Duration::ZERO, || true);
        assert_eq!(health.bridge_restarts.load(Relaxed), 3);
    }
}
