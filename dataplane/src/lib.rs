//! Framegate's rooms: the journey of one connection on one core. monoio lives in this crate only.

pub mod bridge;
pub mod health;
pub mod record;
pub mod refusal;
pub mod rlimit;
pub mod route;
pub mod tables;
