//! How much may pass: token buckets and aligned quotas as values, and the leases by which shards share one of them.
//!
//! A [`Meter`] is the one count that a limit has in a process; who holds it, and how it is locked, is the data plane's. A
//! [`Share`] is what one shard has in hand of it: as long as that lasts, a decision touches nothing else. Nothing here
//! reads a clock: [`Now`] comes in.

mod clock;
mod meter;
mod share;
mod turns;
mod window;

pub use meter::{Meter, Terms, Usage};
pub use share::{Answer, Share};
pub use window::{Window, WindowUnit};

/// The time, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds of a clock that only rises; from which moment on does not matter. Buckets fill by it.
    pub mono_ns: u64,
    /// Milliseconds since 1970, UTC. Windows begin and end by it.
    pub wall_ms: u64,
}
