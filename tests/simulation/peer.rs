//! A scripted peer: says its frames in pieces, answers what RFC 6455 wants answered, and fails as its script says.

use std::collections::VecDeque;

use dataplane::relay::Leg;

use crate::kit::{Frame, Opcode, Random};
use crate::network::{Found, Socket};

/// What a peer does with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    /// Reads and answers at once.
    Attentive,
    /// Stops reading for seconds at a time.
    Slow,
    /// Does nothing any more from this time on.
    DeadAt(u64),
}

/// How its script ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finale {
    /// With a close frame of this code; `None`: an empty one.
    Close(Option<u16>),
    /// It waits for the other.
    Wait,
    /// Its connection ends at this byte of what it says.
    Vanish { at_byte: u64, how: Vanish },
    /// It breaks a rule.
    Breach(Breach),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vanish {
    /// It ends its stream, and still reads.
    HalfClose,
    /// Nothing reaches it any more.
    Reset,
}

/// The rules that a peer may break here; the session's own tests have all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    ReservedBits,
    WrongMask,
    BadCloseCode,
    TooLarge,
    /// Deep inside a long text.
    NotUtf8,
}

impl Breach {
    pub const fn code(self) -> u16 {
        match self {
            Self::ReservedBits | Self::WrongMask | Self::BadCloseCode => 1002,
            Self::NotUtf8 => 1007,
            Self::TooLarge => 1009,
        }
    }
}

/// What a peer has said: the model of what the other may see.
pub enum Said {
    Frame(Frame),
    /// From here on nothing may reach the other; of such a frame at most a part.
    Breach(Frame),
}

pub struct Peer {
    pub leg: Leg,
    pub temper: Temper,
    pub finale: Finale,
    /// Bytes read at a time, at most.
    pub read_most: usize,
    /// Bytes written at a time, at most.
    pub write_most: usize,
    /// Each with the number of bytes written when it is whole.
    pub said: Vec<(Said, u64)>,
    pub seen: Vec<Frame>,
    /// A frame that has not been read whole.
    pub rest: Vec<u8>,
    pub vanished: bool,
    pub close_said: Option<Vec<u8>>,
    /// It has read the end of what it was sent.
    pub at_end: bool,
    script: VecDeque<Frame>,
    urgent: VecDeque<Frame>,
    out: Vec<u8>,
    pub written: u64,
    ended: bool,
    stalled_until_ms: u64,
    last_key: [u8; 4],
    random: Random,
}

/// The mark by which a peer's own pings, and the pongs to them, are told from the gateway's.
pub const MARK: &[u8] = b"peer:";

/// Bytes of a payload that no route here admits.
pub const TOO_LARGE: u64 = 1 << 17;

impl Peer {
    /// On a fast network nobody reads or writes byte by byte, and there is more to say.
    pub fn new(leg: Leg, fast: bool, random: &mut Random) -> Self {
        let mut random = Random::fixed(random.number());
        let sizes: &[usize] = if fast { &[700, 5_000, 200_000] } else { &[1, 3, 50, 700, 5_000] };
        let read_most = sizes[random.below(sizes.len())];
        let write_most = sizes[random.below(sizes.len())];
        let temper = match random.below(10) {
            0 => Temper::DeadAt(random.below(20_000) as u64),
            1..=3 => Temper::Slow,
            _ => Temper::Attentive,
        };
        let mut peer = Self {
            leg,
            temper,
            finale: Finale::Wait,
            read_most,
            write_most,
            said: Vec::new(),
            seen: Vec::new(),
            rest: Vec::new(),
            vanished: false,
            close_said: None,
            at_end: false,
            script: VecDeque::new(),
            urgent: VecDeque::new(),
            out: Vec::new(),
            written: 0,
            ended: false,
            stalled_until_ms: 0,
            last_key: [0; 4],
            random,
        };
        peer.finale = peer.choose_finale(fast);
        peer
    }

    fn choose_finale(&mut self, fast: bool) -> Finale {
        let random = &mut self.random;
        match random.below(10) {
            0..=2 => Finale::Wait,
            3 => Finale::Close(None),
            4..=5 => Finale::Close(Some([1000, 1001, 1011, 3000, 4999][random.below(5)])),
            6..=7 => Finale::Vanish {
                at_byte: random.below([300, 30_000][usize::from(fast)]) as u64,
                how: if random.below(2) == 0 { Vanish::HalfClose } else { Vanish::Reset },
            },
            _ => Finale::Breach(
                [Breach::ReservedBits, Breach::WrongMask, Breach::BadCloseCode, Breach::TooLarge, Breach::NotUtf8]
                    [random.below(5)],
            ),
        }
    }

    /// Writes a script of messages in fragments, with pings and pongs of its own between and within them.
    /// `ease` is what the slower of the two ends deals with at a time: nobody waits for megabytes read byte by byte.
    pub fn write_script(&mut self, ease: usize) {
        let random = &mut self.random;
        let messages = random.below(if ease < 50 { 6 } else { 60 });
        let largest = if ease < 50 { 60 } else { ease.clamp(200, 70_000) };
        for number in 0..messages {
            let text = random.below(2) == 0;
            let most = [2, 100, largest][random.below(3)];
            let length = random.below(most);
            let payload = if text { text_of(length, random) } else { random.bytes(length) };
            let mut opcode = if text { Opcode::TEXT } else { Opcode::BINARY };
            let mut rest = payload.as_slice();
            loop {
                let last = random.below(3) > 0;
                let (piece, after) = rest.split_at(if last { rest.len() } else { random.below(rest.len() + 1) });
                let frame = Frame::new(opcode, piece);
                self.script.push_back(if last { frame } else { frame.unfinished() });
                (opcode, rest) = (Opcode::CONTINUATION, after);
                if random.below(5) == 0 {
                    let opcode = if random.below(3) == 0 { Opcode::PONG } else { Opcode::PING };
                    let mark = [MARK, format!("{:?} {number} {}", self.leg, random.below(1000)).as_bytes()].concat();
                    self.script.push_back(Frame::new(opcode, mark));
                }
                if last {
                    break;
                }
            }
        }
    }

    /// When it will do something although nothing reaches it, if ever.
    pub fn wakes_at_ms(&self, now_ms: u64) -> u64 {
        if self.stalled_until_ms > now_ms && !self.is_dead(now_ms) { self.stalled_until_ms } else { u64::MAX }
    }

    fn is_dead(&self, now_ms: u64) -> bool {
        matches!(self.temper, Temper::DeadAt(at_ms) if now_ms >= at_ms)
    }

    /// Does something, if there is something to do; says whether it did.
    pub fn act(&mut self, socket: &mut Socket, now_ms: u64) -> bool {
        if self.is_dead(now_ms) {
            return false;
        }
        let wrote = self.write(socket);
        self.read(socket, now_ms) || wrote
    }

    fn write(&mut self, socket: &mut Socket) -> bool {
        if self.ended || self.vanished {
            return false;
        }
        if self.out.is_empty() {
            self.begin_frame();
        }
        if let Finale::Vanish { at_byte, how } = self.finale
            && self.written >= at_byte
        {
            self.vanish(how, socket);
            return true;
        }
        if self.out.is_empty() {
            return self.maybe_end(socket);
        }
        let mut most = self.out.len().min(1 + self.random.below(self.write_most));
        if let Finale::Vanish { at_byte, .. } = self.finale {
            most = most.min((at_byte - self.written) as usize);
        }
        match socket.to_gateway.write(&self.out[..most]) {
            Ok(written) => {
                self.out.drain(..written);
                self.written += written as u64;
                written > 0
            }
            Err(_) => {
                self.ended = true;
                true
            }
        }
    }

    fn vanish(&mut self, how: Vanish, socket: &mut Socket) {
        self.vanished = true;
        match how {
            Vanish::HalfClose => socket.to_gateway.end(),
            Vanish::Reset => socket.tear(),
        }
    }

    /// Both have said their close frames: the server ends the connection first, the client when it sees that.
    fn maybe_end(&mut self, socket: &mut Socket) -> bool {
        let closed = self.close_said.is_some() && self.close_seen();
        let breached = self.has_breached() && self.close_seen();
        if (closed || breached) && (self.leg == Leg::Upstream || self.at_end) {
            self.ended = true;
            socket.to_gateway.end();
            return true;
        }
        false
    }

    pub fn has_breached(&self) -> bool {
        matches!(self.said.last(), Some((Said::Breach(_), _)))
    }

    pub fn close_seen(&self) -> bool {
        self.seen.last().is_some_and(|frame| frame.opcode == Opcode::CLOSE)
    }

    fn begin_frame(&mut self) {
        if self.close_said.is_some() || self.has_breached() {
            return;
        }
        if let Some(frame) = self.urgent.pop_front().or_else(|| self.script.pop_front()) {
            return self.say(frame);
        }
        match self.finale {
            Finale::Close(code) => {
                let frame = match code {
                    Some(code) => Frame::close(code, "the end"),
                    None => Frame::new(Opcode::CLOSE, ""),
                };
                self.say(frame);
            }
            Finale::Breach(breach) => self.breach(breach),
            Finale::Vanish { at_byte, .. } => {
                // Something for its end to stand in, if the script was shorter.
                let length = (at_byte - self.written.min(at_byte)) as usize + 10;
                let payload = self.random.bytes(length);
                self.say(Frame::binary(payload));
            }
            Finale::Wait => {}
        }
    }

    fn say(&mut self, frame: Frame) {
        if frame.opcode == Opcode::CLOSE {
            self.close_said = Some(frame.payload.clone());
        }
        let masked = if self.leg == Leg::Client { frame.clone().masked(self.key()) } else { frame.clone() };
        self.out = masked.encode();
        self.said.push((Said::Frame(frame), self.written + self.out.len() as u64));
    }

    /// Sometimes a key that can be predicted.
    fn key(&mut self) -> [u8; 4] {
        let key = match self.random.below(6) {
            0 => [0; 4],
            1 => self.last_key,
            _ => self.random.key(),
        };
        self.last_key = key;
        key
    }

    fn breach(&mut self, breach: Breach) {
        let frame = match breach {
            Breach::ReservedBits => Frame::text("x").reserved(3),
            Breach::WrongMask | Breach::TooLarge => Frame::binary(""),
            Breach::BadCloseCode => Frame::close(1006, ""),
            Breach::NotUtf8 => {
                let before = self.random.below(300);
                let mut payload = vec![b'a'; before];
                payload.extend_from_slice(b"\xed\xa0\x80 and then some");
                Frame::new(Opcode::TEXT, payload)
            }
        };
        let masked = (self.leg == Leg::Client) != (breach == Breach::WrongMask);
        let sent = if masked { frame.clone().masked(self.random.key()) } else { frame.clone() };
        self.out = match breach {
            Breach::TooLarge => sent.length_form(crate::kit::frame::LengthForm::Claimed(TOO_LARGE)).encode(),
            _ => sent.encode(),
        };
        let noise = self.random.below(50);
        self.out.extend(self.random.bytes(noise));
        self.said.push((Said::Breach(frame), self.written + self.out.len() as u64));
    }

    fn read(&mut self, socket: &mut Socket, now_ms: u64) -> bool {
        if now_ms < self.stalled_until_ms {
            return false;
        }
        if self.temper == Temper::Slow && self.random.below(400) == 0 {
            self.stalled_until_ms = now_ms + self.random.below(8_000) as u64;
        }
        let most = 1 + self.random.below(self.read_most);
        self.take(socket, most)
    }

    fn take(&mut self, socket: &mut Socket, most: usize) -> bool {
        let reset = self.vanished && matches!(self.finale, Finale::Vanish { how: Vanish::Reset, .. });
        if self.at_end || reset {
            return false;
        }
        match socket.from_gateway.read(most) {
            Found::Nothing => return false,
            Found::Bytes(bytes) => {
                self.rest.extend_from_slice(&bytes);
                while let Some((frame, length)) = Frame::decode(&self.rest) {
                    self.rest.drain(..length);
                    self.see(frame);
                }
            }
            Found::End | Found::Torn => self.at_end = true,
        }
        true
    }

    fn see(&mut self, frame: Frame) {
        match frame.opcode {
            Opcode::PING => self.urgent.push_back(Frame::pong(frame.payload.clone())),
            Opcode::CLOSE => {
                self.script.clear();
                self.urgent.clear();
                self.urgent.push_back(Frame::new(Opcode::CLOSE, frame.payload.clone()));
            }
            _ => {}
        }
        self.seen.push(frame);
    }

    /// Reads what is left when the session is over.
    pub fn read_the_rest(&mut self, socket: &mut Socket) {
        while self.take(socket, 1 << 20) {}
    }
}

/// So many octets of UTF-8, characters of every length among them.
fn text_of(length: usize, random: &mut Random) -> Vec<u8> {
    let mut text = String::new();
    while text.len() < length {
        text.push(['a', 'é', '€', '𐍈', '\u{7f}'][random.below(5)]);
    }
    text.into_bytes()
}
