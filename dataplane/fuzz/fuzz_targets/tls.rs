//! The fuzzer's door to bodies/tls.rs, which says what must hold.

#![no_main]

#[path = "../bodies/tls.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
