//! The fuzzer's door to bodies/utf8.rs, which says what must hold.

#![no_main]

#[path = "../bodies/utf8.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
