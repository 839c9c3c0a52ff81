//! Waiting for a state, not for a while.

use std::io::Write;
use std::time::{Duration, Instant};

/// How long anything that should happen may take before a test gives up. Generous: two busy cores must not fail it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until the condition holds; panics with the sentence if that takes longer than [`DEADLINE`].
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_some(what, || condition().then_some(()));
}

/// Waits until there is a value; panics with the sentence if that takes longer than [`DEADLINE`].
#[track_caller]
pub fn until_some<T>(what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says something that is heard although the test passes: past the harness, which keeps what passing tests print.
pub fn aloud(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "{sentence}");
}
