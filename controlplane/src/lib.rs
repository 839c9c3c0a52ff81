//! Framegate's office: reads, checks, compiles and pushes the configuration, and answers the operator.

pub mod schema;
pub mod source;
