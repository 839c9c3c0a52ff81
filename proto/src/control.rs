//! The control protocol: what the two planes, and an operator's command line, say to each other.
//!
//! An envelope is `u32` big-endian length, `u8` kind, payload; the length counts kind and payload. Payloads are
//! MessagePack maps with named fields; fields that a reader does not know are skipped, except inside a snapshot's
//! sections. docs/control-protocol.md describes it byte by byte. Framing is in [`envelope`], texts in [`message`].

use std::path::{Path, PathBuf};

pub mod address;
pub mod envelope;
pub mod message;

pub use address::Address;
pub use envelope::EnvelopeError;
pub use message::Message;

/// The version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Where the control socket is when nobody says: system-wide for root and for the user that the system-wide directory
/// belongs to, else the user's own.
///
/// `uid` is the process's effective user, `system_owner` the owner of [`SYSTEM_DIRECTORY`] if that exists, and
/// `runtime_directory` the content of `XDG_RUNTIME_DIR`.
pub fn default_path(uid: u32, system_owner: Option<u32>, runtime_directory: Option<&Path>) -> PathBuf {
    let directory = if uid == 0 || system_owner == Some(uid) {
        PathBuf::from(SYSTEM_DIRECTORY)
    } else if let Some(runtime_directory) = runtime_directory.filter(|path| path.is_absolute()) {
        runtime_directory.join("framegate")
    } else {
        PathBuf::from(format!("/tmp/framegate-{uid}"))
    };
    directory.join("control.sock")
}

/// Where the control socket of a system-wide gateway stands.
pub const SYSTEM_DIRECTORY: &str = "/run/framegate";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_socket_is_system_wide_for_those_who_may_and_else_the_users_own() {
        let xdg = Path::new("/run/user/1000");
        for (uid, owner, runtime, path) in [
            (0, None, Some(xdg), "/run/framegate/control.sock"),
            (998, Some(998), None, "/run/framegate/control.sock"),
            (1000, Some(998), Some(xdg), "/run/user/1000/framegate/control.sock"),
            (1000, Some(0), None, "/tmp/framegate-1000/control.sock"),
            (1000, None, Some(Path::new("relative")), "/tmp/framegate-1000/control.sock"),
        ] {
            assert_eq!(default_path(uid, owner, runtime), Path::new(path));
        }
    }
}
