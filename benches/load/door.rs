//! Where a client knocks, what it asks for, and whether it speaks TLS there.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use super::poll::{STALL, receive, send};
use super::tls::{Channel, Shaken, Terms};
use super::traffic::Outcome;
use crate::kit::Upgrade;

/// A gateway's address, and how it is spoken to.
#[derive(Clone)]
pub struct Door {
    pub address: SocketAddr,
    /// What is asked for.
    pub target: &'static str,
    /// Without it no TLS is spoken.
    pub tls: Option<Terms>,
}

/// A connection on which nothing has been asked for yet.
pub struct Entered {
    pub stream: TcpStream,
    pub channel: Option<Box<Channel>>,
}

impl Door {
    /// The request that is made there.
    pub fn request(&self) -> Vec<u8> {
        Upgrade::to(self.target).encode()
    }

    /// Connects, and makes the TLS handshake where there is one; waits for both.
    pub fn enter(&self) -> Outcome<Entered> {
        let stream = TcpStream::connect(self.address).map_err(|error| format!("no connection: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let Some(terms) = &self.tls else { return Ok(Entered { stream, channel: None }) };
        let mut shaking = terms.begin()?;
        let mut room = vec![0; 16 << 10];
        let mut count = 0;
        let begun = Instant::now();
        loop {
            let done = shaking.advance(&room[..count])?;
            let to_send = std::mem::take(&mut shaking.to_send);
            if send(stream.as_raw_fd(), &to_send)? != to_send.len() {
                return Err("a socket does not take a handshake".into());
            }
            if done {
                break;
            }
            count = loop {
                if let Some(count) = receive(stream.as_raw_fd(), &mut room)? {
                    break count;
                }
                if begun.elapsed() > STALL {
                    return Err(format!("no TLS handshake within {STALL:?}"));
                }
                wait_readable(stream.as_raw_fd());
            };
        }
        let Shaken { channel, .. } = shaking.finish()?;
        Ok(Entered { stream, channel: Some(Box::new(channel)) })
    }
}

impl Entered {
    /// Sends a few bytes, which the socket takes.
    pub fn send(&mut self, bytes: &[u8]) -> Outcome<()> {
        let mut sealed = Vec::new();
        let bytes = match &mut self.channel {
            Some(channel) => {
                channel.seal([bytes, &[]], &mut sealed);
                &sealed[..]
            }
            None => bytes,
        };
        match send(self.stream.as_raw_fd(), bytes)? {
            count if count == bytes.len() => Ok(()),
            _ => Err("a socket does not take a request".into()),
        }
    }

    /// Waits for the answer to the upgrade, and for nothing behind it.
    pub fn expect_switch(&mut self) -> Outcome<()> {
        let (mut head, mut room) = (Vec::new(), vec![0; 64 << 10]);
        let begun = Instant::now();
        while !head.ends_with(b"\r\n\r\n") {
            if begun.elapsed() > STALL {
                return Err(format!("no answer to the upgrade within {STALL:?}"));
            }
            wait_readable(self.stream.as_raw_fd());
            let lead = self.channel.as_mut().map_or(0, |channel| channel.lead(&mut room));
            let received = receive(self.stream.as_raw_fd(), &mut room[lead..]);
            let received = received.map_err(|error| format!("the upgrade is not answered: {error}"))?;
            let count = lead + received.unwrap_or(0);
            let Some(channel) = &mut self.channel else {
                head.extend_from_slice(&room[..count]);
                continue;
            };
            let mut at = 0;
            while let Some(opened) = channel.open(&mut room[at..count])? {
                head.extend_from_slice(&room[at + opened.data.start..at + opened.data.end]);
                at += opened.record_bytes;
                if opened.last {
                    return Err(format!("the upgrade is not answered: {}", head.escape_ascii()));
                }
            }
            channel.keep(&room[at..count]);
        }
        if head.starts_with(b"HTTP/1.1 101 ") { Ok(()) } else { Err(head.escape_ascii().to_string()) }
    }
}

/// Waits until something can be read, or for too long.
fn wait_readable(fd: i32) {
    let mut watched = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: `watched` is one valid pollfd for the duration of the call.
    unsafe { libc::poll(&mut watched, 1, STALL.as_millis() as i32) };
}
