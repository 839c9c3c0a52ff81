//! Brings what is served to disk, behind the Ack: the disk's time is nobody's wait.
//!
//! A thread with at most one generation before it: when several come while it writes, the newest is written and those
//! between are not. What is written, and how a crash leaves it whole, is the [`store`](crate::store)'s business.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use proto::control::message::{Body, Generation};
use proto::errors::with_sources;
use proto::snapshot::Snapshot;

use crate::health::Health;
use crate::store::{Store, StoreError};

/// The running thread.
#[derive(Debug)]
pub(super) struct Keeper {
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

/// Where the link leaves what is to be stored.
#[derive(Debug, Default)]
struct Desk {
    tray: Mutex<Tray>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Tray {
    next: Option<Served>,
    is_last: bool,
}

/// A generation, with the bytes of those of its sections that are not stored yet.
#[derive(Debug)]
struct Served {
    generation: Generation,
    snapshot: Snapshot,
    bodies: Vec<Body>,
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(store: Store, health: Arc<Health>) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let own = Arc::clone(&desk);
        let thread = thread::Builder::new().name("store".into()).spawn(move || {
            let mut store = store;
            own.work(&health, |served| store.save(&served.generation, &served.snapshot, served.bodies));
        })?;
        Ok(Self { desk, thread })
    }

    /// Has this generation stored, unless a newer one comes first.
    pub(super) fn keep(&self, generation: Generation, snapshot: Snapshot, bodies: Vec<Body>) {
        let mut tray = self.desk.tray();
        let served = Served { generation, snapshot, bodies };
        tray.next = Some(match tray.next.take() {
            Some(before) => served.instead_of(before),
            None => served,
        });
        drop(tray);
        self.desk.filled.notify_one();
    }

    /// Waits until the last generation is stored, and ends the thread.
    pub(super) fn finish(self) {
        self.desk.tray().is_last = true;
        self.desk.filled.notify_one();
        if self.thread.join().is_err() {
            tracing::error!("the thread that stores generations panicked");
        }
    }
}

impl Desk {
    fn work(&self, health: &Health, mut save: impl FnMut(Served) -> Result<(), StoreError>) {
        while let Some(served) = self.take() {
            // A panic is a fault of ours, but one bad save must not leave everything after it unstored. What the store had in
            // memory by then is of sections that the next save looks for on the disk, and writes if they are not there.
            let error = match catch_unwind(AssertUnwindSafe(|| save(served))) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => with_sources(&error),
                Err(_) => "the data plane made a mistake".to_owned(),
            };
            // It is served whether or not this works, so a failure is told, and nothing is taken back.
            health.store_failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                error,
                "the generation is served, but could not be stored; a restart would find an older one"
            );
        }
    }

    /// What is to be stored next; none if nothing will come any more.
    fn take(&self) -> Option<Served> {
        let is_idle = |tray: &mut Tray| tray.next.is_none() && !tray.is_last;
        let waited = self.filled.wait_while(self.tray(), is_idle);
        waited.unwrap_or_else(PoisonError::into_inner).next.take()
    }

    /// Every change to it is a single assignment, so it is sound whoever panicked.
    fn tray(&self) -> MutexGuard<'_, Tray> {
        self.tray.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Served {
    /// With those bodies of the generation before it, which was not stored, that are of its sections too.
    fn instead_of(mut self, before: Self) -> Self {
        let Self { snapshot, bodies, .. } = before;
        let digest = |snapshot: &Snapshot, body: &Body| snapshot.sections().get(&body.name).map(|(digest, _)| *digest);
        let is_of_both = |body: &Body| digest(&snapshot, body) == digest(&self.snapshot, body);
        let missing: Vec<Body> = bodies
            .into_iter()
            .filter(|body| is_of_both(body) && self.bodies.iter().all(|own| own.name != body.name))
            .collect();
        self.bodies.extend(missing);
        self
    }
}

#[cfg(test)]
mod tests {
    use proto::control::message::Push;
    use proto::snapshot::{Api, Config, Listener, Target};

    use super::*;

    fn served(number: u64, contexts: [&str; 2], before: Option<&Snapshot>) -> Served {
        let target = || Target::Url("ws://127.0.0.1:9/".parse().unwrap());
        let config = Config {
            version: 1,
            listeners: vec![Listener::new("public", "127.0.0.1:8080".parse().unwrap())],
            apis: ["a", "b"].into_iter().zip(contexts).map(|(api, at)| Api::new(api, "", at, target())).collect(),
            ..Config::default()
        };
        let snapshot = Snapshot::check(config).unwrap();
        let held = before.map(Snapshot::list).unwrap_or_default().into_iter().map(|(_, digest)| digest).collect();
        let generation = Generation { source: "office".into(), number };
        let bodies = Push::new(generation.clone(), &snapshot, &held).bodies;
        Served { generation, snapshot, bodies }
    }

    #[test]
    fn the_newest_of_several_generations_has_the_bytes_of_those_between() {
        let first = served(1, ["/a", "/b"], None);
        let (before, all) = (first.snapshot.clone(), first.bodies.len());
        let second = served(2, ["/a", "/other"], Some(&before));
        assert_eq!((all, second.bodies.len()), (4, 1));
        let changed = second.bodies[0].clone();
        let newest = second.instead_of(first);
        assert_eq!((newest.generation.number, newest.bodies.len()), (2, all));
        assert!(newest.bodies.contains(&changed), "and not what the first had in its place");
        let between = newest.snapshot.clone();
        let third = served(3, ["/a", "/b"], Some(&between)).instead_of(newest);
        assert!(!third.bodies.contains(&changed));
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), true).unwrap();
        store.save(&third.generation, &third.snapshot, third.bodies).unwrap();
        assert_eq!(store.load().unwrap().unwrap().1.list(), before.list());
    }

    #[test]
    fn a_save_that_panics_is_counted_and_the_next_generation_is_stored() {
        let directory = tempfile::tempdir().unwrap();
        let health = Health::new(std::time::Instant::now(), std::time::SystemTime::now());
        let mut store = Store::open(directory.path(), true).unwrap();
        let first = served(1, ["/a", "/b"], None);
        let second = served(2, ["/a", "/other"], Some(&first.snapshot));
        let desk = Desk::default();
        desk.tray().next = Some(first);
        let mut rest = Some(second);
        desk.work(&health, |served| {
            let mut tray = desk.tray();
            (tray.next, tray.is_last) = (rest.take(), true);
            drop(tray);
            assert_ne!(served.generation.number, 1, "the first panics");
            store.save(&served.generation, &served.snapshot, served.bodies)
        });
        assert_eq!(health.store_failures.load(Ordering::Relaxed), 1);
        let (generation, snapshot) = store.load().unwrap().unwrap();
        assert_eq!(generation.number, 2);
        assert!(snapshot.apis().any(|api| api.context == "/other"));
    }

    #[test]
    fn the_last_generation_is_stored_before_the_thread_ends() {
        let directory = tempfile::tempdir().unwrap();
        let health = Arc::new(Health::new(std::time::Instant::now(), std::time::SystemTime::now()));
        let keeper = Keeper::start(Store::open(directory.path(), true).unwrap(), health).unwrap();
        for number in 1..=20 {
            let Served { generation, snapshot, bodies } = served(number, ["/a", &format!("/b{number}")], None);
            keeper.keep(generation, snapshot, bodies);
        }
        keeper.finish();
        let (generation, snapshot) = Store::open(directory.path(), true).unwrap().load().unwrap().unwrap();
        assert_eq!(generation.number, 20);
        assert!(snapshot.apis().any(|api| api.context == "/b20"));
    }
}
