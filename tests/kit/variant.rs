//! The ways in which a gateway can wait for sockets and move bytes, so that each story can be told on each of them.
//!
//! Between them they have both drivers, both engines with splice and without, and TLS on either leg and on both. What a
//! variant makes of a story is the gateway's business: no story may ask which one it is on, but for how much of it there
//! is, and for where its ends are.

use std::cell::Cell;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::pki;
use super::wait::aloud;

/// How a gateway is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As an operator starts it: what the gateway itself chooses.
    Automatic,
    /// The same without splice.
    Copying,
    /// The readiness engine, with splice.
    Readiness,
    /// Where io_uring is forbidden, as container run-times do it; without splice.
    Forbidden,
    /// As an operator starts it, with TLS on both legs.
    Secure,
    /// The same with TLS to clients only.
    SecureIn,
    /// The same with TLS to upstreams only.
    SecureOut,
    /// TLS on both legs, where io_uring is forbidden.
    SecureForbidden,
}

thread_local! {
    static TOLD: Cell<Variant> = const { Cell::new(Variant::Automatic) };
}

/// The variant on which this thread tells its story: what the story's upstreams speak depends on it.
pub fn told() -> Variant {
    TOLD.get()
}

impl Variant {
    /// Tells a story on it. The next on this thread is another one, however this one ends.
    pub fn tell(self, story: impl FnOnce(Self)) {
        struct Told;
        impl Drop for Told {
            fn drop(&mut self) {
                TOLD.set(Variant::Automatic);
            }
        }
        let _told = Told;
        TOLD.set(self);
        story(self);
    }

    /// Whether clients of the listener `public` speak TLS.
    pub fn is_secure_in(self) -> bool {
        matches!(self, Self::Secure | Self::SecureIn | Self::SecureForbidden)
    }

    /// Whether upstreams on TCP speak TLS.
    pub fn is_secure_out(self) -> bool {
        matches!(self, Self::Secure | Self::SecureOut | Self::SecureForbidden)
    }

    /// Whether there is TLS on any leg.
    pub fn is_secure(self) -> bool {
        self.is_secure_in() || self.is_secure_out()
    }

    /// For messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Copying => "copying",
            Self::Readiness => "readiness",
            Self::Forbidden => "forbidden",
            Self::Secure => "secure",
            Self::SecureIn => "secure in",
            Self::SecureOut => "secure out",
            Self::SecureForbidden => "secure, forbidden",
        }
    }

    /// The data plane's flags.
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Automatic | Self::Secure | Self::SecureIn | Self::SecureOut => &[],
            Self::Copying | Self::Forbidden | Self::SecureForbidden => &["--splice", "off"],
            Self::Readiness => &["--engine", "readiness"],
        }
    }

    /// Puts a program, and whatever it starts, where this variant has it.
    pub fn confine(self, command: &mut Command) {
        if matches!(self, Self::Forbidden | Self::SecureForbidden) {
            forbid_io_uring(command);
        }
    }

    /// Whether this machine can have it, and it is not what another variant is already; says so aloud where not.
    pub fn is_available(self) -> bool {
        match self {
            Self::Automatic => true,
            Self::Secure | Self::SecureIn | Self::SecureOut => pki::is_available(),
            Self::SecureForbidden => pki::is_available() && Self::Forbidden.is_available(),
            Self::Copying | Self::Readiness => io_uring_or("skipped: without io_uring this is another variant").is_ok(),
            Self::Forbidden => {
                let mut command = Command::new("true");
                forbid_io_uring(&mut command);
                command
                    .status()
                    .inspect_err(|error| aloud(&format!("skipped: no seccomp filters here ({error})")))
                    .is_ok()
            }
        }
    }
}

/// Tries to have a ring, and says the sentence aloud where there is none.
fn io_uring_or(sentence: &str) -> std::io::Result<()> {
    let mut parameters = [0_u8; 256];
    // SAFETY: io_uring_setup(2) reads and writes one struct io_uring_params (120 bytes), which the array holds zeroed.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) };
    if ring < 0 {
        let error = std::io::Error::last_os_error();
        aloud(&format!("{sentence} ({error})"));
        return Err(error);
    }
    // SAFETY: the descriptor was just made, and nobody else knows it.
    unsafe { libc::close(ring as i32) };
    Ok(())
}

/// A seccomp filter that lets the three system calls of io_uring fail with EPERM; children inherit it.
pub fn forbid_io_uring(command: &mut Command) {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const UNLESS_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    const IF_ABOVE: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
    const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;
    const _: () = assert!(libc::SYS_io_uring_setup + 1 == libc::SYS_io_uring_enter);
    const _: () = assert!(libc::SYS_io_uring_setup + 2 == libc::SYS_io_uring_register);
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number of the system call is the first field of what a filter sees.
    let filter = [
        step(LOAD, 0, 0, 0),
        step(UNLESS_AT_LEAST, 0, 2, libc::SYS_io_uring_setup as u32),
        step(IF_ABOVE, 1, 0, libc::SYS_io_uring_register as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: prctl(2) is async-signal-safe, the closure owns the filter that the program points to, and the kernel
    // copies it.
    unsafe {
        command.pre_exec(move || {
            let mut filter = filter;
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            let outcome = match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
                0 => libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
                failed => failed,
            };
            if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}
