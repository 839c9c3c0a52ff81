//! What a frame and a handshake may cost: system calls and allocations, counted, never timed.
//!
//! The ceilings stand beside what counts, and in the documentation of the engines; a change that needs a higher one is
//! a decision. How long anything takes is the benches' question.

#[path = "../kit/mod.rs"]
mod kit;

/// Makes a test of each budget for each way. Before the modules that use it.
macro_rules! on_every_way {
    ($($budget:ident),* $(,)?) => {
        $crate::on_way!(uring, Uring, $($budget)*);
        $crate::on_way!(readiness, Readiness, $($budget)*);
        $crate::on_way!(readiness_on_epoll, ReadinessOnEpoll, $($budget)*);
    };
}
macro_rules! on_way {
    ($module:ident, $way:ident, $($budget:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $budget() {
                    super::$budget($crate::Way::$way);
                }
            )*
        }
    };
}
pub(crate) use {on_every_way, on_way};

mod allocations;
mod calls;
mod load;

use dataplane::choice::{Asked, Choice, choose};
use dataplane::options::{DriverChoice, EngineChoice};
use dataplane::relay::EngineKind;
use dataplane::worker::Driver;

/// What moves the bytes, and what runs the worker beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The uring engine.
    Uring,
    /// The readiness engine beside io_uring.
    Readiness,
    /// The readiness engine where there is no io_uring.
    ReadinessOnEpoll,
}

impl Way {
    fn asked(self) -> Asked {
        let (driver, engine) = match self {
            Self::Uring => (DriverChoice::Uring, EngineChoice::Uring),
            Self::Readiness => (DriverChoice::Uring, EngineChoice::Readiness),
            Self::ReadinessOnEpoll => (DriverChoice::Epoll, EngineChoice::Readiness),
        };
        Asked { driver, engine, splice: true }
    }

    /// As the data plane's environment has it.
    fn environment(self) -> [(&'static str, &'static str); 2] {
        let (driver, engine) = match self {
            Self::Uring => ("uring", "uring"),
            Self::Readiness => ("uring", "readiness"),
            Self::ReadinessOnEpoll => ("epoll", "readiness"),
        };
        [("FRAMEGATE_DRIVER", driver), ("FRAMEGATE_ENGINE", engine)]
    }

    /// `None`, said aloud, where this machine cannot have it.
    fn choice(self) -> Option<Choice> {
        let engine = |deferred| EngineKind::Uring.is_available(deferred);
        choose(self.asked(), Driver::attempt, engine)
            .map(|(choice, _)| choice)
            .inspect_err(|error| kit::aloud(&format!("skipped: the budget of {self:?}: {error}")))
            .ok()
    }
}
