//! The verbs of the command line, dispatched.

fn main() {}
