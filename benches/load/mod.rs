//! The load of the benches that run a gateway: an echo and a client that cost as little as possible themselves.
//!
//! Every echo is compared with what was sent, byte by byte. What is measured, and what is made of it, is the benches'.

#![allow(dead_code, unused_imports, reason = "each bench uses its own part")]

pub mod client;
pub mod door;
pub mod echo;
pub mod handshakes;
pub mod histogram;
pub mod machine;
pub mod poll;
pub mod tls;
pub mod traffic;

pub use client::Client;
pub use door::Door;
pub use echo::Echo;
