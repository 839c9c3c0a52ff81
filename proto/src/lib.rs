//! Framegate's words: everything that both planes say or hear, as bytes and as values.
//!
//! Sans-IO: no sockets, clocks, threads or randomness live here. What needs `now` or a random number takes it as an
//! argument; what parses bytes answers with offsets, because the buffers belong to the kernel as often as to us.

pub mod control;
pub mod errors;
pub mod http;
pub mod limits;
pub mod parse;
pub mod snapshot;
pub mod throttle;
pub mod ws;
