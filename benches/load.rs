//! The load of the benches that run a gateway: an echo and a client that cost as little as possible themselves.
//!
//! Every echo is compared with what was sent, byte by byte. What is measured, and what is made of it, is the benches'.

#![allow(dead_code, reason = "each bench uses its own part")]

pub mod client;
pub mod echo;
pub mod machine;

pub use client::Client;
pub use echo::Echo;
