//! What holds for all inputs: round trips, and that a cut anywhere changes no answer.

mod frames;
mod heads;
mod text;
