//! Ports that no other test has.
//!
//! The gateway's listeners share a port with whoever asks (SO_REUSEPORT), so two tests on one port would not fail but
//! mix. A port is therefore locked by a file for as long as its [`Port`] lives, across processes, and lies below the
//! kernel's own range of ephemeral ports.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

/// A free port of the loopback interface, and the lock on it.
#[derive(Debug)]
pub struct Port {
    /// The number.
    pub number: u16,
    _lock: File,
}

impl Port {
    /// A port that is free now, and that no other test will choose while this value lives.
    pub fn free() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = std::env::temp_dir().join("framegate-test-ports");
        std::fs::create_dir_all(&directory).expect("the temporary directory can be written");
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + (std::process::id().wrapping_mul(131).wrapping_add(step)) % COUNT;
            let lock =
                OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(number.to_string()));
            let lock = lock.expect("a lock file can be opened");
            let number = u16::try_from(number).expect("below 65536");
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port");
    }

    /// With the loopback address.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
