//! Framegate's rooms: the journey of one connection on one core. monoio lives in this crate only.
//!
//! ```text
//! accept → handshake → route → authenticate → admit → policy → connect → relay → record
//! ```
//!
//! `serve` is the corridor that calls the rooms in this order; `worker` is the thread they stand on; `gateway` is the
//! workers together; `process` starts them and gives them what the control plane pushes.

pub mod admit;
pub mod alarm;
pub mod authenticate;
pub mod balance;
pub mod bridge;
pub mod choice;
pub mod connect;
pub mod control_link;
pub mod doors;
pub mod forwarding;
pub mod gateway;
pub mod handshake;
pub mod health;
pub mod identity;
pub mod inbox;
pub mod issuers;
pub mod listen;
pub mod notify;
pub mod onward;
pub mod options;
pub mod people;
pub mod policy;
pub mod process;
pub mod proxy_protocol;
pub mod record;
pub mod refusal;
pub mod relay;
pub mod rlimit;
pub mod route;
pub mod serve;
pub mod shard;
pub mod signals;
pub mod socket;
pub mod standing;
pub mod store;
pub mod stream;
pub mod tables;
pub mod throttle;
pub mod tls;
pub mod visitor;
pub mod worker;

pub use process::run;
