//! What the fields of a configuration mean together: [`Snapshot`] exists only when all of it is sound.

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Problem {
    /// JSON Pointer (RFC 6901) into the document, such as `/apis/3/context`.
    pub place: String,
    /// A sentence: what is wrong, and what would be right.
    pub message: String,
}

/// A whole configuration that is sound.
#[derive(Debug, Clone)]
pub struct Snapshot {
    #[expect(dead_code, reason = "skeleton")]
    sections: super::Sections,
}
