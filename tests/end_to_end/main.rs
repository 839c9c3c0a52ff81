//! Do real processes serve real sockets? One story each, on both of the ways a worker can wait for the kernel.

#![cfg(test)]

#[path = "../kit/mod.rs"]
mod kit;

mod balance;
mod control_protocol;
mod drain;
mod drills;
mod headers;
mod hostile;
mod kit_itself;
mod life;
mod listeners;
mod records;
mod refusals;
mod restarts;
mod routes;
mod strangers;
mod streams;
mod supervision;
mod systemd;
mod upstreams;
mod verbs;
mod violations;
