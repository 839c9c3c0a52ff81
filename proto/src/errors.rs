//! An error as one sentence, for logs and for reasons that travel. Which error it is, and what follows, is the caller's.

use std::error::Error;

/// The error and everything it came from, each after a colon; no `Display` of ours repeats its source.
pub fn with_sources(error: &dyn Error) -> String {
    std::iter::successors(error.source(), |source| (*source).source())
        .fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
