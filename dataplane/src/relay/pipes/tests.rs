//! Pipes between real sockets, TCP and Unix, and a pool that the kernel refuses.
//!
//! Whether sessions survive being spliced is the end-to-end suite's question.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;

/// The nonblocking end that a worker would have, and the peer's, which blocks.
type Link = (OwnedFd, Box<dyn Stream>);

trait Stream: Read + Write + Send {
    fn end(&self);
    fn set_blocking(&self, blocking: bool);
}

impl Stream for TcpStream {
    fn end(&self) {
        self.shutdown(std::net::Shutdown::Write).unwrap();
    }

    fn set_blocking(&self, blocking: bool) {
        self.set_nonblocking(!blocking).unwrap();
    }
}

impl Stream for UnixStream {
    fn end(&self) {
        self.shutdown(std::net::Shutdown::Write).unwrap();
    }

    fn set_blocking(&self, blocking: bool) {
        self.set_nonblocking(!blocking).unwrap();
    }
}

fn tcp() -> Link {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    peer.set_nodelay(true).unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours.into(), Box::new(peer))
}

fn unix() -> Link {
    let (ours, peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours.into(), Box::new(peer))
}

const KINDS: [fn() -> Link; 2] = [tcp, unix];

fn wait(fd: &OwnedFd, events: i16) {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one pollfd, valid for the call.
    let ready = unsafe { libc::poll(&mut poll, 1, 10_000) };
    assert_eq!(ready, 1, "nothing happens on the socket");
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < patience, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn would_block(outcome: io::Result<usize>) -> bool {
    matches!(outcome, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 251 * 7 + at) as u8).collect()
}

#[test]
fn every_byte_arrives_in_order_through_sockets_that_are_full_and_empty_in_turn() {
    for (from_kind, to_kind) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let ((from, mut source), (to, mut sink)) = (KINDS[from_kind](), KINDS[to_kind]());
        let bytes = pattern(5_000_000);
        let said = bytes.clone();
        let writer = std::thread::spawn(move || {
            // In pieces of all sizes, so that segments are small and large.
            let mut rest = &said[..];
            for size in [1, 100, 1_400, 10_000, 70_000, 900_000].into_iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(size));
                source.write_all(piece).unwrap();
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            source.end();
        });
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            sink.read_to_end(&mut heard).unwrap();
            heard
        });
        let mut pool = Pool::new();
        let mut pipe = pool.take().unwrap();
        loop {
            match pipe.fill(from.as_raw_fd(), usize::MAX >> 1) {
                Ok(0) => break,
                Ok(moved) => assert_eq!(moved, pipe.len()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait(&from, libc::POLLIN),
                Err(error) => panic!("{error}"),
            }
            while !pipe.is_empty() {
                let before = pipe.len();
                match pipe.drain(to.as_raw_fd(), false) {
                    Ok(moved) => assert_eq!(moved + pipe.len(), before),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => wait(&to, libc::POLLOUT),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        writer.join().unwrap();
        drop(to);
        assert!(reader.join().unwrap() == bytes, "from {from_kind} to {to_kind}");
    }
}

#[test]
fn no_more_is_taken_from_the_socket_than_was_asked_for() {
    for kind in KINDS {
        let ((from, mut source), (to, mut sink)) = (kind(), kind());
        source.write_all(b"payload|next frame").unwrap();
        wait(&from, libc::POLLIN);
        let mut pipe = Pool::new().take().unwrap();
        assert_eq!(pipe.fill(from.as_raw_fd(), 7).unwrap(), 7);
        assert_eq!(pipe.drain(to.as_raw_fd(), true).unwrap(), 7);
        assert_eq!(pipe.drain(to.as_raw_fd(), false).unwrap(), 0, "an empty pipe has nothing to say");
        let mut room = [0; 64];
        let rest = crate::socket::receive(from.as_raw_fd(), &mut room).unwrap();
        assert_eq!(&room[..rest], b"|next frame");
        crate::socket::send(to.as_raw_fd(), b"!").unwrap();
        let mut heard = [0; 8];
        sink.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"payload!");
    }
}

#[test]
fn an_empty_socket_would_block_and_an_ended_one_says_so() {
    for kind in KINDS {
        let (from, mut source) = kind();
        let mut pipe = Pool::new().take().unwrap();
        assert!(would_block(pipe.fill(from.as_raw_fd(), 100)));
        source.write_all(b"last words").unwrap();
        source.end();
        wait(&from, libc::POLLIN);
        assert_eq!(pipe.fill(from.as_raw_fd(), 100).unwrap(), 10);
        wait_until("the end of the stream", || matches!(pipe.fill(from.as_raw_fd(), 100), Ok(0)));
        assert_eq!(pipe.len(), 10, "the end takes nothing away");
    }
}

#[test]
fn what_a_full_socket_does_not_take_stays_in_the_pipe() {
    for kind in KINDS {
        let ((from, mut source), (to, mut sink)) = (kind(), kind());
        let block = pattern(250_000);
        let said = block.clone();
        let writer = std::thread::spawn(move || while source.write_all(&said).is_ok() {});
        let mut pipe = Pool::new().take().unwrap();
        let mut moved = 0;
        loop {
            if pipe.is_empty() {
                wait(&from, libc::POLLIN);
                pipe.fill(from.as_raw_fd(), PIPE_BYTES).unwrap();
            }
            match pipe.drain(to.as_raw_fd(), false) {
                Ok(taken) => moved += taken,
                Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        let waiting = pipe.len();
        assert!(waiting > 0);
        let reader = std::thread::spawn(move || {
            let mut heard = vec![0; moved + waiting];
            sink.read_exact(&mut heard).unwrap();
            heard
        });
        while !pipe.is_empty() {
            wait(&to, libc::POLLOUT);
            pipe.drain(to.as_raw_fd(), false)
                .map_or_else(|error| assert_eq!(error.kind(), ErrorKind::WouldBlock), drop);
        }
        assert!(reader.join().unwrap().chunks(block.len()).all(|chunk| *chunk == block[..chunk.len()]));
        drop(from);
        writer.join().unwrap();
    }
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    for kind in KINDS {
        let ((from, mut source), (to, sink)) = (kind(), kind());
        // What it has not read makes its closing a reset.
        crate::socket::send(to.as_raw_fd(), b"unread").unwrap();
        wait(&to, libc::POLLOUT);
        drop(sink);
        wait(&to, libc::POLLHUP | libc::POLLRDHUP);
        source.write_all(&[7; 1000]).unwrap();
        wait(&from, libc::POLLIN);
        let mut pipe = Pool::new().take().unwrap();
        pipe.fill(from.as_raw_fd(), 1000).unwrap();
        for _ in 0..3 {
            let error = pipe.drain(to.as_raw_fd(), false).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
        }
        assert_eq!(pipe.len(), 1000);
    }
}

#[test]
fn a_source_that_is_reset_is_an_error() {
    let (from, source) = tcp();
    crate::socket::send(from.as_raw_fd(), b"unread").unwrap();
    drop(source);
    wait(&from, libc::POLLHUP);
    let error = Pool::new().take().unwrap().fill(from.as_raw_fd(), 1000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn small_segments_fill_a_pipe_long_before_the_socket_is_empty() {
    for kind in KINDS {
        let ((from, mut source), (to, mut sink)) = (kind(), kind());
        source.set_blocking(false);
        let mut sent = 0;
        while sent < 400_000 {
            match source.write(&[sent as u8; 100]) {
                Ok(taken) => sent += taken,
                Err(_) => break,
            }
        }
        let mut pipe = Pool::new().take().unwrap();
        // As large as it is by default.
        // SAFETY: a plain system call on a descriptor that is open.
        assert!(unsafe { libc::fcntl(pipe.write.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES_MIN) } > 0);
        wait(&from, libc::POLLIN);
        while pipe.fill(from.as_raw_fd(), sent).is_ok() {}
        let first = pipe.len();
        assert!(first < sent, "the pipe is full, and the socket is not empty");
        let mut moved = 0;
        let mut heard = vec![0; sent];
        while moved < sent {
            if pipe.is_empty() {
                pipe.fill(from.as_raw_fd(), sent).expect("an empty pipe takes what is there");
            }
            let drained = pipe.drain(to.as_raw_fd(), false).unwrap();
            sink.read_exact(&mut heard[moved..moved + drained]).unwrap();
            moved += drained;
        }
        assert!(would_block(pipe.fill(from.as_raw_fd(), sent)));
        assert!(heard.chunks(100).enumerate().all(|(at, chunk)| chunk.iter().all(|byte| *byte == (at * 100) as u8)));
    }
}

#[test]
fn a_pool_keeps_a_few_empty_pipes_and_bounds_those_in_use() {
    let mut pool = Pool::new();
    let mut pipes: Vec<Pipe> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!((pipes.len(), pool.in_use()), (PIPES_IN_USE_MAX, PIPES_IN_USE_MAX));
    assert!(pipes.iter().all(|pipe| pipe.capacity() == PIPE_BYTES), "on this machine nothing is short");
    drop(pipes.pop());
    assert_eq!(pool.in_use(), PIPES_IN_USE_MAX - 1, "a pipe that is dropped leaves its place");
    pipes.push(pool.take().expect("there is room again"));
    pipes.drain(..).for_each(|pipe| pool.give_back(pipe));
    assert_eq!((pool.idle.len(), pool.in_use()), (PIPES_IDLE_MAX, 0));
}

#[test]
fn a_pipe_with_content_is_not_used_again() {
    let (from, mut source) = unix();
    let mut pool = Pool::new();
    let mut pipe = pool.take().unwrap();
    source.write_all(b"somebody's").unwrap();
    pipe.fill(from.as_raw_fd(), 100).unwrap();
    pool.give_back(pipe);
    assert_eq!((pool.idle.len(), pool.in_use()), (0, 0));
}

#[test]
fn pipes_are_not_inherited() {
    let pipe = Pool::new().take().unwrap();
    for end in [&pipe.read, &pipe.write] {
        // SAFETY: plain system calls on a descriptor that is open.
        let (descriptor, status) =
            unsafe { (libc::fcntl(end.as_raw_fd(), libc::F_GETFD), libc::fcntl(end.as_raw_fd(), libc::F_GETFL)) };
        assert!(descriptor & libc::FD_CLOEXEC != 0 && status & libc::O_NONBLOCK != 0);
    }
}

/// What a pool does when the kernel has refused: it does not ask at every frame, and is not put off for ever.
fn assert_comes_back(pool: &mut Pool, make_room: impl FnOnce()) {
    make_room();
    let refused = (0..).take_while(|_| pool.take().is_none()).count();
    assert_eq!(refused, TAKES_UNTIL_RETRY as usize);
    assert_eq!(pool.take().expect("from now on").capacity(), PIPE_BYTES);
}

#[test]
fn without_descriptors_there_is_no_pipe_and_later_there_is() {
    // In a thread with a table of its own, so that nobody else runs out of them.
    let alone = || {
        // SAFETY: from here on this thread's descriptors are copies, which nobody else refers to.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0, "{}", io::Error::last_os_error());
        // SAFETY: as above; the copies are closed at once, so that no other test's peer stays open for them.
        assert_eq!(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }, 0);
        // SAFETY: a plain system call; the outcome is checked by the loop's end.
        let copies: Vec<i32> = std::iter::from_fn(|| Some(unsafe { libc::dup(0) }).filter(|fd| *fd >= 0)).collect();
        let mut pool = Pool::new();
        assert!(pool.take().is_none());
        assert_eq!(pool.in_use(), 0);
        assert_comes_back(&mut pool, || {
            // SAFETY: the descriptors are this thread's own copies.
            copies.iter().take(10).for_each(|fd| assert_eq!(unsafe { libc::close(*fd) }, 0));
        });
    };
    std::thread::spawn(alone).join().unwrap();
}

#[test]
fn a_user_with_too_many_pipe_pages_gets_none_that_is_too_small() {
    let ceiling = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap();
    // SAFETY: a plain system call.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || ceiling.trim() == "0" {
        eprintln!("SKIPPED: this needs root, to be another user, and a ceiling of pipe pages");
        return;
    }
    // The system call, unlike the function, changes the user of this thread only. The kernel counts pages by user, so it
    // is one that nobody else is.
    let as_somebody = || {
        let user = 61_000 + std::process::id() % 4_000;
        // SAFETY: a plain system call that concerns this thread only.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) }, 0);
        let mut hoard = Vec::new();
        let mut pool = Pool::new();
        let first = pool.take().unwrap();
        assert_eq!(first.capacity(), PIPE_BYTES, "the first is as large as anybody's");
        loop {
            let pipe = Pipe::open().unwrap();
            let small = pipe.capacity < PIPE_BYTES_MIN;
            hoard.push(pipe);
            if small {
                break;
            }
        }
        assert!(hoard.len() > 1 && pool.take().is_none());
        assert_eq!(pool.in_use(), 1);
        pool.give_back(first);
        let first = pool.take().expect("one that it has is used as before");
        assert_comes_back(&mut pool, || hoard.clear());
        drop(first);
    };
    std::thread::spawn(as_somebody).join().unwrap();
}
