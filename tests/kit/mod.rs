//! The kit of the tests: a gateway made of real processes, scripted peers on both sides of it, and patience.
//!
//! Included by path into each test binary. It knows nothing of the gateway's own code but the executable: frames are
//! built and read here a second time, so that a mistake in `proto` is not made twice.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of the kit")]

pub mod admin;
pub mod echo;
pub mod flock;
pub mod forger;
pub mod frame;
pub mod gateway;
pub mod issuer;
pub mod line;
pub mod name_server;
pub mod peer;
pub mod people;
pub mod pki;
pub mod ports;
pub mod random;
pub mod secrets;
pub mod tls;
pub mod tokens;
pub mod upstream;
pub mod variant;
pub mod wait;

pub use admin::Admin;
pub use echo::EchoBackend;
pub use flock::Flock;
pub use frame::{Frame, Opcode};
pub use gateway::{Gateway, Outcome, Setup};
pub use issuer::IssuerServer;
pub use name_server::NameServer;
pub use peer::{Head, Peer, Upgrade};
pub use people::People;
pub use ports::Port;
pub use random::Random;
pub use secrets::Secrets;
pub use upstream::RawUpstream;
pub use variant::Variant;
pub use wait::{DEADLINE, aloud, until, until_some};

/// Makes a test of each story on each variant in clear, and over TLS on both legs: for stories about bytes on their way
/// through an established session.
///
/// A story that is not listed is unused code, which the lints refuse.
#[allow(unused_macros, reason = "not every test binary has stories")]
macro_rules! on_every_variant {
    ($($story:ident),* $(,)?) => {
        $crate::kit::on_variant!(automatic, Automatic, $($story)*);
        $crate::kit::on_variant!(copying, Copying, $($story)*);
        $crate::kit::on_variant!(readiness, Readiness, $($story)*);
        $crate::kit::on_variant!(forbidden, Forbidden, $($story)*);
        $crate::kit::on_variant!(secure, Secure, $($story)*);
    };
}
#[allow(unused_imports, reason = "not every test binary has stories")]
pub(crate) use on_every_variant;

/// Besides [`on_every_variant`]: TLS on either leg alone, and on both with the readiness engine. For the stories about
/// cuts, back-pressure, floods and goodbyes, in which one leg's records meet the other leg's bytes.
#[allow(unused_macros, reason = "not every test binary has stories")]
macro_rules! on_single_legs {
    ($($story:ident),* $(,)?) => {
        $crate::kit::on_variant!(secure_in, SecureIn, $($story)*);
        $crate::kit::on_variant!(secure_out, SecureOut, $($story)*);
        $crate::kit::on_variant!(secure_forbidden, SecureForbidden, $($story)*);
    };
}
#[allow(unused_imports, reason = "not every test binary has stories")]
pub(crate) use on_single_legs;

/// Makes a test of each story on each variant in clear, for stories that mean nothing over TLS; each says why.
#[allow(unused_macros, reason = "not every test binary has stories")]
macro_rules! on_variants_in_clear {
    ($($story:ident),* $(,)?) => {
        $crate::kit::on_variant!(automatic_in_clear, Automatic, $($story)*);
        $crate::kit::on_variant!(copying_in_clear, Copying, $($story)*);
        $crate::kit::on_variant!(readiness_in_clear, Readiness, $($story)*);
        $crate::kit::on_variant!(forbidden_in_clear, Forbidden, $($story)*);
    };
}
#[allow(unused_imports, reason = "not every test binary has stories")]
pub(crate) use on_variants_in_clear;

/// Makes two tests of each story, one for each driver: for stories about what is around a session.
#[allow(unused_macros, reason = "not every test binary has stories")]
macro_rules! on_both_drivers {
    ($($story:ident),* $(,)?) => {
        $crate::kit::on_variant!(automatic, Automatic, $($story)*);
        $crate::kit::on_variant!(forbidden, Forbidden, $($story)*);
    };
}
#[allow(unused_imports, reason = "not every test binary has stories")]
pub(crate) use on_both_drivers;

/// The same with TLS on both legs: for stories about TLS itself.
#[allow(unused_macros, reason = "not every test binary has stories")]
macro_rules! on_both_drivers_securely {
    ($($story:ident),* $(,)?) => {
        $crate::kit::on_variant!(secure, Secure, $($story)*);
        $crate::kit::on_variant!(secure_forbidden, SecureForbidden, $($story)*);
    };
}
#[allow(unused_imports, reason = "not every test binary has stories")]
pub(crate) use on_both_drivers_securely;

#[allow(unused_macros, reason = "not every test binary has stories")]
macro_rules! on_variant {
    ($module:ident, $variant:ident, $($story:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $story() {
                    if $crate::kit::Variant::$variant.is_available() {
                        $crate::kit::Variant::$variant.tell(super::$story);
                    }
                }
            )*
        }
    };
}
#[allow(unused_imports, reason = "not every test binary has stories")]
pub(crate) use on_variant;
