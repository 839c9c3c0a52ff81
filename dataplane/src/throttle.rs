//! Throttling: how much of what a session says may pass, decided on its own shard.
//!
//! A session that is limited has a [`Guard`]: its levels (application, subscription, API or topic, keyed limits), each with
//! its plan and with what this shard has in hand of the plan's meters. What a meter is, and why leases are exact, is
//! [`proto::throttle`]'s; which levels a session has is found out at its handshake, and again when a configuration has
//! changed.

pub mod denials;
mod guard;
mod held;
mod keeper;
mod ledger;
pub mod levels;
mod meters;
pub mod plans;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod usage;
mod waiting;

pub use guard::{
    Compiled, Drops, Guard, Level, LevelKind, Rule, RuleId, Stopped, Throttled, Verdict, WAIT_MS_MAX, WallOffset,
};
pub use held::{Held, Metered, Reached, Standing};
pub use keeper::Keeper;
pub use ledger::Ledger;
pub use levels::Party;
pub use meters::{Event, LimitId, Meters, News, Scope};
pub use plans::{Limits, Pace, Paces};
pub use usage::usage;
pub use waiting::{Patience, Rest, Stash, Waiting};
