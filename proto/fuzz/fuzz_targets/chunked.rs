//! The fuzzer's door to bodies/chunked.rs, which says what must hold.

#![no_main]

#[path = "../bodies/chunked.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
