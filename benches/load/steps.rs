//! How many instructions something takes: counted, not timed, so that it is the same on a machine that is busy.
//!
//! A child of this process does it while this one lets it take a step at a time (ptrace). What runs in the kernel counts as
//! one step, and the count is that of this build on this kind of CPU.

use std::ptr;

/// Steps after which something is taken to have no end.
const STEPS_MAX: u64 = 10_000_000;

/// Instructions for one more turn of `work`, which is told how many turns to make and allocates nothing. `None` where
/// nobody may look at another process.
pub fn of(mut work: impl FnMut(u64)) -> Option<f64> {
    const FEW: u64 = 10;
    const MANY: u64 = 110;
    // Warm, as it is when it counts.
    work(MANY);
    let [few, many] = [FEW, MANY].map(|turns| steps(|| work(turns)));
    Some((many? - few?) as f64 / (MANY - FEW) as f64)
}

fn steps(work: impl FnOnce()) -> Option<u64> {
    // SAFETY: the child runs `work`, which allocates nothing, and ends; it shares no lock with another thread.
    match unsafe { libc::fork() } {
        -1 => None,
        0 => {
            // SAFETY: plain system calls.
            unsafe {
                if libc::ptrace(libc::PTRACE_TRACEME, 0, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) == -1 {
                    libc::_exit(1);
                }
                libc::raise(libc::SIGSTOP);
            }
            work();
            // SAFETY: plain system calls.
            unsafe {
                libc::raise(libc::SIGSTOP);
                libc::_exit(0)
            }
        }
        child => {
            let counted = watch(child);
            // SAFETY: the child is ours, and nobody else has waited for it.
            unsafe {
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, ptr::null_mut(), 0);
            }
            counted
        }
    }
}

/// Steps of a child between the two times at which it stops.
fn watch(child: libc::pid_t) -> Option<u64> {
    if stopped_by(child)? != libc::SIGSTOP {
        return None;
    }
    for step in 0..STEPS_MAX {
        // SAFETY: the child is stopped, and traced by this thread.
        if unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) } == -1 {
            return None;
        }
        if stopped_by(child)? == libc::SIGSTOP {
            return Some(step);
        }
    }
    None
}

/// The signal that has stopped it; none: it has ended.
fn stopped_by(child: libc::pid_t) -> Option<i32> {
    let mut status = 0;
    // SAFETY: `status` is valid for the write of one number.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    (waited == child && libc::WIFSTOPPED(status)).then(|| libc::WSTOPSIG(status))
}
