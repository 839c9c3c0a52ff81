//! What is tried against WebSocket gateways, played out: a scripted hostile client, a scripted hostile upstream, every
//! byte that reached the upstream read back, and a fresh client after each attack that finds the gateway well.
//!
//! `handshakes`: what is done to the way from HTTP to WebSocket. `frames`: what is done behind it. `floods`: what is
//! done with many small things, under a watch on memory and descriptors.

mod floods;
mod frames;
mod handshakes;
