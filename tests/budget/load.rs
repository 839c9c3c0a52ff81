//! The load of the benches: an echo, and a client that keeps frames in flight and compares what comes back.

#![allow(dead_code, reason = "the benches use more of it")]

#[path = "../../benches/load/client.rs"]
pub mod client;
#[path = "../../benches/load/echo.rs"]
pub mod echo;
#[path = "../../benches/load/machine.rs"]
pub mod machine;
#[path = "../../benches/load/tls.rs"]
pub mod tls;

pub use client::Client;
pub use echo::Echo;
