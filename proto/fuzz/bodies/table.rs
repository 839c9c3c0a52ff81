//! The fuzz bodies: what must hold for any bytes, once for the fuzzer and once for the ordinary test beside it.
//!
//! A new one is a file here, its name in this table, and a target and seeds of the same name; tests/fuzz_bodies says
//! what is missing.

/// Declares the modules and the table.
macro_rules! bodies {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*

        /// Every body by its name.
        pub const BODIES: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::run)),*];
    };
}

bodies! {
    chunked,
    control,
    extensions,
    forwarding,
    frame,
    request_head,
    response_head,
    section,
    switch,
    upgrade,
    utf8,
}
