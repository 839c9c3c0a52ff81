//! Limits that the kernel sets for the process: open files, and the size of a page.
//!
//! The descriptor ceiling decides how many connections fit; what happens at it is the acceptor's business.

use std::io;

/// Raises the soft limit of open files to the hard one, or to `wanted` if that is less. Returns the limit in force.
pub fn raise_open_files(wanted: Option<u64>) -> io::Result<u64> {
    let mut limit = read()?;
    let target = wanted.map_or(limit.rlim_max, |wanted| wanted.min(limit.rlim_max));
    if wanted.is_some() || limit.rlim_cur < target {
        limit.rlim_cur = target;
        // SAFETY: `limit` is a valid rlimit for the duration of the call, which only reads it.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(target)
}

/// The soft limit of open files; 0 if the kernel does not say.
pub fn open_files() -> u64 {
    read().map_or(0, |limit| limit.rlim_cur)
}

/// Bytes of a page of memory.
pub fn page_bytes() -> u64 {
    // SAFETY: sysconf has no preconditions.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Has the kernel give memory in small pages only. A page of 2 MiB that holds one slow client's few bytes is charged
/// whole: the budget of many small sessions is only kept without them.
pub fn refuse_huge_pages() -> io::Result<()> {
    // SAFETY: this option takes one number and three zeros, and touches no memory of ours.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn read() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the duration of the call, which only writes it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        Ok(limit)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_can_be_raised_to_the_hard_one() {
        let raised = raise_open_files(None).unwrap();
        assert_eq!(raised, open_files());
        assert_eq!(raised, read().unwrap().rlim_max);
    }
}
