//! What every parser here answers when the bytes are sound so far.
//!
//! Too little data is not an error and consumes nothing; what is unsound is each parser's own fault type.

/// What parsing a prefix of a stream says: the value and the bytes it took, or how many bytes it needs at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parse<T> {
    /// The value, and how many bytes it took.
    Complete(T, usize),
    /// Nothing was consumed; `need` bytes in total are necessary to say more.
    Partial {
        /// Bytes from the start.
        need: usize,
    },
}
