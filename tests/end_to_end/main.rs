//! Do real processes serve real sockets? One story each, on the ways in which a worker can wait and move bytes.

#![cfg(test)]

#[path = "../kit/mod.rs"]
mod kit;

mod admin;
mod balance;
mod catalogue;
mod certificates;
mod control_over_tcp;
mod control_protocol;
mod convert;
mod credentials;
mod drain;
mod drills;
mod headers;
mod hostile;
mod kit_itself;
mod life;
mod limits;
mod listeners;
mod policy;
mod records;
mod refusals;
mod restarts;
mod routes;
mod strangers;
mod streams;
mod supervision;
mod systemd;
mod tls;
mod tokens;
mod upstreams;
mod variants;
mod verbs;
mod violations;
