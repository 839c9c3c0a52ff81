//! The operator listener over real sockets: what is answered, and what a bad client gets.
