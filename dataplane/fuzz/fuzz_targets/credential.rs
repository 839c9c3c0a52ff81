//! The fuzzer's door to bodies/credential.rs, which says what must hold.

#![no_main]

#[path = "../bodies/credential.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
