//! What holds for all inputs: round trips, and that a cut anywhere changes no answer.

#![cfg(test)]

#[path = "../kit/config.rs"]
mod config;
mod frames;
mod heads;
mod snapshot;
mod text;
