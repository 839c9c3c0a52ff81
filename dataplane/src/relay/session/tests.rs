//! The session's rules, one by one: what both peers are sent, where in the stream it stands, and what the ending says.
//!
//! Whether the rules together survive a network is the simulation's question.

mod bench;
mod clock;
mod closing;
mod frames;
mod limits;
mod unseen;
mod violations;
