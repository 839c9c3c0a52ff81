//! Which driver waits for sockets and which engine moves the bytes: chosen once, when the process starts.
//!
//! Decides from what was asked for and from what the kernel answers; whoever calls asks the kernel, and says in the log
//! what came of it.

use std::io;

use crate::options::{DriverChoice, EngineChoice};
use crate::relay::{EngineKind, Means};
use crate::worker::Driver;

/// What to do where io_uring was asked for and cannot be had.
const UNLESS_FORBIDDEN: &str = "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile \
    (container run-times forbid them by default), set the sysctl kernel.io_uring_disabled to 0, or leave the choice to \
    --driver auto --engine auto";

/// How every worker of the process waits for sockets and moves bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// What runs the workers.
    pub driver: Driver,
    /// What moves the bytes of their sessions.
    pub means: Means,
}

/// What the flags say.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// `--driver`.
    pub driver: DriverChoice,
    /// `--engine`.
    pub engine: EngineChoice,
    /// `--splice`.
    pub splice: bool,
}

/// The best of what was asked for, and, where less than the best was left to choose, a line that says why. The error is
/// a sentence for the operator: what was asked for, why it cannot be had, what to do.
///
/// `driver` tries a driver; `engine` says whether the uring engine can be had, with deferred task work or without.
pub fn choose(
    asked: Asked,
    driver: impl Fn(Driver) -> io::Result<()>,
    engine: impl Fn(bool) -> bool,
) -> Result<(Choice, Option<String>), String> {
    let (driver, why_driver) = choose_driver(asked, driver)?;
    let deferred = driver == Driver::UringDeferred;
    let (engine, why_engine) = choose_engine(asked.engine, driver, || engine(deferred))?;
    let why = [why_driver, why_engine].into_iter().flatten().reduce(|first, second| format!("{first}; {second}"));
    Ok((Choice { driver, means: Means { engine, splice: asked.splice, deferred } }, why))
}

fn choose_driver(asked: Asked, attempt: impl Fn(Driver) -> io::Result<()>) -> Result<(Driver, Option<String>), String> {
    let wants_plain = asked.driver == DriverChoice::UringPlain;
    if asked.driver == DriverChoice::Epoll {
        return match asked.engine {
            EngineChoice::Uring => {
                Err("--engine uring needs io_uring, and --driver epoll does without: leave out one of the two".into())
            }
            EngineChoice::Auto | EngineChoice::Readiness => Ok((Driver::Epoll, None)),
        };
    }
    let not_deferred = match attempt(Driver::UringDeferred) {
        Ok(()) if !wants_plain => return Ok((Driver::UringDeferred, None)),
        outcome => outcome.err(),
    };
    let forbidden = match attempt(Driver::Uring) {
        Ok(()) => {
            let why = not_deferred.filter(|_| !wants_plain);
            let why =
                why.map(|error| format!("io_uring cannot defer its task work here ({error}): the plain form is used"));
            return Ok((Driver::Uring, why));
        }
        Err(error) => fault(&error),
    };
    let insists = match (asked.driver, asked.engine) {
        (DriverChoice::Uring, _) => "--driver uring",
        (DriverChoice::UringPlain, _) => "--driver uring-plain",
        (_, EngineChoice::Uring) => "--engine uring",
        _ => return Ok((Driver::Epoll, Some(format!("{forbidden}: epoll and the readiness engine are used")))),
    };
    Err(format!("{forbidden}, and {insists} needs it: {UNLESS_FORBIDDEN}"))
}

fn choose_engine(
    asked: EngineChoice,
    driver: Driver,
    is_available: impl Fn() -> bool,
) -> Result<(EngineKind, Option<String>), String> {
    const WANTS: &str = "the uring engine needs a kernel that bounds its multishot receives (Linux 6.17)";
    match asked {
        EngineChoice::Readiness => Ok((EngineKind::Readiness, None)),
        // Why there is no io_uring has been said.
        EngineChoice::Auto if driver == Driver::Epoll => Ok((EngineKind::Readiness, None)),
        _ if is_available() => Ok((EngineKind::Uring, None)),
        EngineChoice::Auto => Ok((EngineKind::Readiness, Some(format!("{WANTS}: the readiness engine is used")))),
        EngineChoice::Uring => {
            Err(format!("{WANTS}, which this one is not: leave the choice to --engine auto, or use --engine readiness"))
        }
    }
}

fn fault(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "io_uring is not permitted (EPERM)".into(),
        Some(libc::ENOSYS) => "io_uring is not there (ENOSYS)".into(),
        _ => format!("io_uring cannot be had ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel, by what it offers.
    #[derive(Clone, Copy)]
    struct Kernel {
        deferred: Result<(), i32>,
        plain: Result<(), i32>,
        engine: bool,
    }

    const NEW: Kernel = Kernel { deferred: Ok(()), plain: Ok(()), engine: true };
    const OLDER: Kernel = Kernel { engine: false, ..NEW };
    const OLD: Kernel = Kernel { deferred: Err(libc::EINVAL), ..OLDER };
    const FORBIDDEN: Kernel = Kernel { deferred: Err(libc::EPERM), plain: Err(libc::EPERM), engine: false };
    const ANCIENT: Kernel = Kernel { deferred: Err(libc::ENOSYS), plain: Err(libc::ENOSYS), engine: false };

    const AUTO: Asked = Asked { driver: DriverChoice::Auto, engine: EngineChoice::Auto, splice: true };

    fn chosen(asked: Asked, kernel: Kernel) -> Result<(Choice, Option<String>), String> {
        let attempt = |driver| match driver {
            Driver::UringDeferred => kernel.deferred.map_err(io::Error::from_raw_os_error),
            Driver::Uring => kernel.plain.map_err(io::Error::from_raw_os_error),
            Driver::Epoll => Ok(()),
        };
        choose(asked, attempt, |_| kernel.engine)
    }

    #[track_caller]
    fn check(asked: Asked, kernel: Kernel, driver: Driver, engine: EngineKind, why: &str) {
        let (choice, said) = chosen(asked, kernel).unwrap();
        assert_eq!((choice.driver, choice.means.engine), (driver, engine), "{said:?}");
        assert_eq!(choice.means.deferred, driver == Driver::UringDeferred);
        match said {
            Some(said) => assert!(!why.is_empty() && said.contains(why), "{said:?}"),
            None => assert_eq!(why, "", "nothing is said"),
        }
    }

    #[test]
    fn the_best_is_chosen_without_a_word() {
        check(AUTO, NEW, Driver::UringDeferred, EngineKind::Uring, "");
    }

    #[test]
    fn what_is_missing_falls_back_step_by_step_and_says_why() {
        let readiness = EngineKind::Readiness;
        check(AUTO, OLDER, Driver::UringDeferred, readiness, "6.17): the readiness engine is used");
        let plain_only = Kernel { deferred: Err(libc::EINVAL), ..NEW };
        check(AUTO, plain_only, Driver::Uring, EngineKind::Uring, "the plain form is used");
        check(AUTO, OLD, Driver::Uring, readiness, "the plain form is used; the uring engine needs");
        let sentence = "io_uring is not permitted (EPERM): epoll and the readiness engine are used";
        check(AUTO, FORBIDDEN, Driver::Epoll, readiness, sentence);
        check(AUTO, ANCIENT, Driver::Epoll, readiness, "io_uring is not there (ENOSYS): epoll and");
        let full = Kernel { deferred: Err(libc::ENOMEM), plain: Err(libc::ENOMEM), engine: true };
        check(AUTO, full, Driver::Epoll, readiness, "io_uring cannot be had (");
    }

    #[test]
    fn what_is_asked_for_is_had_without_a_word() {
        for kernel in [NEW, FORBIDDEN] {
            check(Asked { driver: DriverChoice::Epoll, ..AUTO }, kernel, Driver::Epoll, EngineKind::Readiness, "");
        }
        let plain = Asked { driver: DriverChoice::UringPlain, ..AUTO };
        check(plain, NEW, Driver::Uring, EngineKind::Uring, "");
        check(plain, Kernel { engine: true, ..OLD }, Driver::Uring, EngineKind::Uring, "");
        let readiness = Asked { engine: EngineChoice::Readiness, ..AUTO };
        check(readiness, NEW, Driver::UringDeferred, EngineKind::Readiness, "");
        let both = Asked { driver: DriverChoice::Uring, engine: EngineChoice::Uring, ..AUTO };
        check(both, NEW, Driver::UringDeferred, EngineKind::Uring, "");
    }

    #[test]
    fn the_uring_driver_may_be_the_plain_one_and_nothing_else() {
        let uring = Asked { driver: DriverChoice::Uring, ..AUTO };
        let plain_only = Kernel { deferred: Err(libc::EINVAL), ..NEW };
        check(uring, plain_only, Driver::Uring, EngineKind::Uring, "the plain form is used");
        assert!(chosen(uring, FORBIDDEN).is_err());
    }

    #[test]
    fn what_is_asked_for_and_missing_is_an_error_that_says_what_to_do() {
        for (driver, engine, kernel, hints) in [
            (DriverChoice::Uring, EngineChoice::Auto, FORBIDDEN, ["EPERM), and --driver uring needs it", "seccomp"]),
            (
                DriverChoice::UringPlain,
                EngineChoice::Auto,
                ANCIENT,
                ["ENOSYS), and --driver uring-plain", "--driver auto"],
            ),
            (DriverChoice::Auto, EngineChoice::Uring, FORBIDDEN, ["EPERM), and --engine uring needs it", "seccomp"]),
            (DriverChoice::Auto, EngineChoice::Uring, OLDER, ["6.17", "--engine readiness"]),
            (DriverChoice::Epoll, EngineChoice::Uring, NEW, ["--driver epoll does without", "leave out one"]),
        ] {
            let error = chosen(Asked { driver, engine, ..AUTO }, kernel).unwrap_err();
            assert!(hints.iter().all(|hint| error.contains(hint)), "{error}");
        }
    }

    #[test]
    fn splice_is_what_was_asked_for() {
        for splice in [true, false] {
            let (choice, _) = chosen(Asked { splice, ..AUTO }, NEW).unwrap();
            assert_eq!(choice.means.splice, splice);
        }
    }
}
