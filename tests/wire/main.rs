//! Do these bytes mean this? One check for each kind of bytes, many rows.
//!
//! Rows cite the paragraph that they come from. What holds for all inputs is in tests/properties.

#![cfg(test)]

mod bodies;
mod frames;
mod heads;
mod switch;
mod upgrade;
