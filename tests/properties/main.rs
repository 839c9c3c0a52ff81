//! What holds for all inputs: round trips, and that a cut anywhere changes no answer.

#![cfg(test)]

#[path = "../kit/config.rs"]
mod config;
mod frames;
mod heads;
#[path = "../kit/secrets.rs"]
#[expect(dead_code, reason = "stories have tokens and private keys, too")]
mod secrets;
mod snapshot;
mod text;
mod throttle;
