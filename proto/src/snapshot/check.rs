//! What the fields of a configuration mean together: [`Snapshot`] exists only when all of it is sound.
