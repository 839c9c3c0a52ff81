//! Framegate's office: reads, checks, compiles and pushes the configuration, and answers the operator.

pub mod admin;
pub mod answer;
pub mod catalogue;
pub mod cli;
pub mod client;
pub mod compile;
pub mod credentials;
pub mod diff;
pub mod door;
pub mod echo;
pub mod expiry;
pub mod keystore;
pub mod material;
pub mod newcomers;
pub mod office;
pub mod publish;
pub mod schema;
pub mod server;
pub mod source;
pub mod store;
pub mod supervise;
pub mod tokens;
pub mod watch;
