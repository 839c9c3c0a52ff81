//! The fuzzer's door to bodies/request_head.rs, which says what must hold.

#![no_main]

#[path = "../bodies/request_head.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
