//! The fuzz bodies of the data plane, in the form of those of proto: see there.

mod credential;
mod session;
mod tls;

/// What must hold for any bytes.
type Run = fn(&[u8]);

/// Every body by its name.
pub const BODIES: &[(&str, Run)] = &[("credential", credential::run), ("session", session::run), ("tls", tls::run)];
