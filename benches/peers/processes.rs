//! What the kernel tells about a target: its processes, what they have used, and who listens where.
//!
//! Reads /proc and starts processes; what is measured is not known here.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command};
use std::time::{Duration, Instant};

use crate::load::machine;

/// A process and all below it; ends with its value.
pub struct Tree {
    root: Child,
}

/// Memory of one process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Everything that is resident.
    pub resident_bytes: u64,
    /// What belongs to no file.
    pub anonymous_bytes: u64,
}

impl Tree {
    /// Starts a program on one CPU. It is told `last_word` when this process ends, however that comes about.
    pub fn start(mut command: Command, cpu: Option<usize>, last_word: i32) -> std::io::Result<Self> {
        // SAFETY: both are single system calls on the closure's own copies.
        unsafe {
            command.pre_exec(move || {
                if let Some(cpu) = cpu {
                    machine::pin(cpu);
                }
                match libc::prctl(libc::PR_SET_PDEATHSIG, last_word) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        command.spawn().map(|root| Self { root })
    }

    /// What the first process writes, where that is a pipe.
    pub fn output(&mut self) -> ChildStdout {
        self.root.stdout.take().expect("standard output is a pipe that nobody has taken")
    }

    /// Whether the first process lives.
    pub fn is_alive(&mut self) -> bool {
        self.root.try_wait().is_ok_and(|status| status.is_none())
    }

    /// The processes, the first one first.
    pub fn ids(&self) -> Vec<u32> {
        let mut ids = vec![self.root.id()];
        let mut at = 0;
        while at < ids.len() {
            let tasks = fs::read_dir(format!("/proc/{}/task", ids[at])).into_iter().flatten().flatten();
            let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
            let found: Vec<u32> =
                children.flat_map(|text| text.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
            ids.extend(found);
            at += 1;
        }
        ids
    }

    /// Time on a CPU of all the processes.
    pub fn cpu_time(&self) -> Duration {
        self.ids().into_iter().map(machine::cpu_time).sum()
    }

    /// Whether one of the processes holds this socket.
    pub fn holds(&self, inode: u64) -> bool {
        let name = format!("socket:[{inode}]");
        self.ids().into_iter().any(|id| {
            let descriptors = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
            descriptors.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|link| link.as_os_str() == name.as_str())
        })
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let ids = self.ids();
        let _ = self.root.kill();
        let _ = self.root.wait();
        for id in ids.into_iter().skip(1) {
            // SAFETY: kill(2) takes two numbers. The process was ours a moment ago, and ids are not given out again so soon.
            unsafe { libc::kill(id as i32, libc::SIGKILL) };
            wait_until(Duration::from_secs(5), || !fs::exists(format!("/proc/{id}")).unwrap_or(false));
        }
    }
}

/// Descriptors of a process.
pub fn descriptors(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count)
}

/// Memory of a process.
pub fn memory(id: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Memory { resident_bytes: field("Rss:"), anonymous_bytes: field("Anonymous:") }
}

/// The sockets that listen on a TCP port of any address.
pub fn listeners(port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    rows.filter_map(|row| {
        let fields: Vec<_> = row.split_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let here = u16::from_str_radix(local, 16) == Ok(port) && *fields.get(3)? == LISTEN;
        if here { fields.get(9)?.parse().ok() } else { None }
    })
    .collect()
}

/// Asks again and again. Says whether it came true in time.
pub fn wait_until(time: Duration, mut so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if so() {
            return true;
        }
        if start.elapsed() > time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
