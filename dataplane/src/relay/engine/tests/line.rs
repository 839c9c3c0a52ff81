//! Sessions that wait for room: they take turns, nothing they said is lost, and who has gone does not stay for ever.

use std::net::Shutdown;
use std::rc::Rc;

use proto::snapshot::{Limit, OnLimit, Outcome, Plan};
use proto::throttle::{Meter, Now};

use super::*;
use crate::throttle::{Compiled, Held, Level, LevelKind, Metered, WallOffset};

const WALL_MS: u64 = 1_795_305_600_000;
/// The close timeout of an API that says nothing, and a little more than the longest pause between two looks.
const GIVEN_UP_MS: u64 = 5_000 + 1_100;

/// One limit that delays, for all sessions that are begun under it.
struct Limited {
    level: Level,
    wall: Rc<WallOffset>,
}

impl Limited {
    fn to(limit: &str) -> Self {
        let limit: Limit = serde_json::from_str(limit).unwrap();
        let on_limit = OnLimit { action: Outcome::Delay, ..OnLimit::default() };
        let plan = Compiled::of(&Plan { on_limit, ..Plan::new("slow", vec![limit]) });
        let wall = WallOffset::default();
        wall.set(1, WALL_MS);
        let meter = Meter::new(plan.limits[0].terms, Now { mono_ns: 1_000_000, wall_ms: WALL_MS });
        let held = Held::new(Arc::new(Metered::new(meter)), (0, 1));
        held.set_waits(true);
        let kind = LevelKind::Api;
        let level = Level { kind, name: kind.word().into(), plan: Arc::new(plan), meters: [Rc::new(held)].into() };
        Self { level, wall: Rc::new(wall) }
    }

    fn begin(&self, stage: &mut Stage) -> Ends {
        stage.begin_under(Guard::new(vec![self.level.clone()], Rc::clone(&self.wall)))
    }
}

impl Stage {
    /// All that a worker does until this millisecond, once.
    fn pass_ms(&mut self, now_ms: u64) {
        // What was sent is there when the kernel has been asked a few times.
        for _ in 0..3 {
            while self.engine.turn(now_ms) {}
        }
        if self.engine.line_due_ms() <= now_ms {
            self.engine.resume_line(now_ms);
        }
        if self.engine.due_ms() <= now_ms {
            self.engine.sweep(now_ms);
        }
    }
}

fn both() -> [Stage; 2] {
    [Stage::uring(Geometry::WORKER), Stage::readiness()]
}

fn numbered(numbers: std::ops::Range<u16>) -> Vec<u8> {
    numbers.flat_map(|number| frame(&number.to_be_bytes())).collect()
}

/// Bytes of one of them.
const NUMBERED_BYTES: usize = 8;

fn receive_all(from: &TcpStream, got: &mut Vec<u8>) {
    exchange(from, &mut &[][..], from, got);
}

/// Whether the connection has ended.
fn is_over(far: &TcpStream) -> bool {
    let mut room = [0; 1024];
    loop {
        match (&*far).read(&mut room) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn those_who_wait_for_one_limit_take_turns_and_have_all_of_it() {
    const SESSIONS: usize = 8;
    const MESSAGES: u16 = 200;
    for mut stage in both() {
        let limited = Limited::to(r#"{"rate": "1000/s", "burst": 10}"#);
        let sessions: Vec<Ends> = (0..SESSIONS).map(|_| limited.begin(&mut stage)).collect();
        let said = numbered(0..MESSAGES);
        sessions.iter().for_each(|ends| (&ends.client).write_all(&said).unwrap());
        let mut got = vec![Vec::new(); SESSIONS];
        let received = |got: &mut Vec<Vec<u8>>| -> usize {
            sessions.iter().zip(&mut *got).for_each(|(ends, got)| receive_all(&ends.upstream, got));
            got.iter().map(|got| got.len() / NUMBERED_BYTES).sum()
        };
        for now_ms in 2..=400 {
            stage.pass_ms(now_ms);
            let (all, most) = (received(&mut got), 10 + now_ms as usize);
            assert!(all <= most, "{all} of {most} after {now_ms} ms");
            assert!(now_ms < 20 || all * 100 >= (most - 2) * 99, "{all} of {most} after {now_ms} ms");
        }
        let parts: Vec<usize> = got.iter().map(|got| got.len() / NUMBERED_BYTES).collect();
        assert!(parts.iter().all(|part| part.abs_diff(400 / SESSIONS) <= 10), "{parts:?}");
        let mut now_ms = 400;
        while received(&mut got) < SESSIONS * usize::from(MESSAGES) {
            now_ms += 1;
            assert!(now_ms < 2_000, "something is lost: {}", received(&mut got));
            stage.pass_ms(now_ms);
        }
        assert!(got.iter().all(|got| *got == said), "altered");
        assert_eq!(stage.sum("buffered"), 0);
        stage.pass_ms(now_ms + 1_100);
        assert_eq!(stage.engine.line_due_ms(), u64::MAX, "nobody waits any more");
    }
}

#[test]
fn what_a_peer_said_before_it_was_gone_is_let_through_and_then_it_is_over() {
    for is_reset in [false, true] {
        for mut stage in both() {
            let limited = Limited::to(r#"{"rate": "100/s", "burst": 5}"#);
            let Ends { client, upstream } = limited.begin(&mut stage);
            let said = numbered(0..50);
            (&client).write_all(&said).unwrap();
            let mut got = Vec::new();
            stage.until("the first are there", || {
                receive_all(&upstream, &mut got);
                got.len() >= 5 * NUMBERED_BYTES
            });
            if is_reset {
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                drop(client);
            } else {
                client.shutdown(Shutdown::Write).unwrap();
            }
            // What the other side says meanwhile finds out that there is nobody.
            (&upstream).write_all(&[0x82, 1, 7]).unwrap();
            for now_ms in (2..600).step_by(5) {
                stage.pass_ms(now_ms);
                receive_all(&upstream, &mut got);
            }
            assert!(got.len() > said.len() && got[..said.len()] == said, "reset {is_reset}: {} bytes", got.len());
            assert_eq!(got[said.len()], 0x88, "a close frame behind it");
            for now_ms in (600..10_000).step_by(50) {
                stage.pass_ms(now_ms);
            }
            assert_eq!((stage.engine.sessions(), stage.sum("buffered")), (0, 0));
        }
    }
}

#[test]
fn who_waits_for_long_and_has_gone_is_given_up() {
    for is_reset in [false, true] {
        for mut stage in both() {
            let limited = Limited::to(r#"{"quota": "1/day"}"#);
            let Ends { client, upstream } = limited.begin(&mut stage);
            (&client).write_all(&numbered(0..3)).unwrap();
            let mut got = Vec::new();
            stage.until("the first is there", || {
                receive_all(&upstream, &mut got);
                got.len() == NUMBERED_BYTES
            });
            for now_ms in (10..60_000).step_by(100) {
                stage.pass_ms(now_ms);
            }
            assert_eq!(stage.engine.sessions(), 1, "who is there may wait");
            if is_reset {
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(client);
            for now_ms in (60_000..60_000 + 2 * GIVEN_UP_MS).step_by(100) {
                stage.pass_ms(now_ms);
                receive_all(&upstream, &mut got);
            }
            assert_eq!((stage.engine.sessions(), stage.sum("buffered")), (0, 0), "reset {is_reset}");
            assert_eq!(got[NUMBERED_BYTES], 0x88, "the other side was told");
        }
    }
}

#[test]
fn who_waits_for_a_peer_that_is_gone_is_told() {
    for mut stage in both() {
        let limited = Limited::to(r#"{"quota": "1/day"}"#);
        let Ends { client, upstream } = limited.begin(&mut stage);
        (&client).write_all(&numbered(0..3)).unwrap();
        let mut got = Vec::new();
        stage.until("the first is there", || {
            receive_all(&upstream, &mut got);
            got.len() == NUMBERED_BYTES
        });
        drop(upstream);
        let mut told = Vec::new();
        for now_ms in (10..10_000).step_by(100) {
            stage.pass_ms(now_ms);
            receive_all(&client, &mut told);
        }
        assert_eq!(told[0], 0x88);
        assert!(is_over(&client));
        assert_eq!((stage.engine.sessions(), stage.sum("buffered")), (0, 0));
    }
}

#[test]
fn who_waits_for_a_reader_that_stands_still_loses_nothing() {
    for mut stage in both() {
        let limited = Limited::to(r#"{"rate": "1000000/s", "burst": 20000, "count": "bytes"}"#);
        let Ends { client, upstream } = limited.begin(&mut stage);
        let said: Vec<u8> = (0..600_u32).flat_map(|round| frame(&vec![round as u8; 3000])).collect();
        let (mut left, mut got, mut now_ms) = (&said[..], Vec::new(), 2);
        while got.len() < said.len() {
            now_ms += 1;
            assert!(now_ms < 20_000, "{} of {} bytes", got.len(), said.len());
            if let Ok(sent) = (&client).write(left) {
                left = &left[sent..];
            }
            stage.pass_ms(now_ms);
            // It reads now and then, and once not for long.
            if now_ms > 1_500 && now_ms.is_multiple_of(7) {
                let mut room = [0; 20_000];
                if let Ok(count) = (&upstream).read(&mut room) {
                    got.extend_from_slice(&room[..count]);
                }
            }
        }
        assert!(got == said, "altered");
        assert_eq!(stage.sum("buffered"), 0);
    }
}

#[test]
fn a_large_message_has_its_turn_beside_small_ones() {
    for mut stage in both() {
        let limited = Limited::to(r#"{"rate": "100000/s", "burst": 20000, "count": "bytes"}"#);
        let (large, small) = (limited.begin(&mut stage), limited.begin(&mut stage));
        let said: Vec<u8> = (0..400).flat_map(|_| frame(&[7; 500])).collect();
        let (mut fed, mut got, mut came_ms) = (0, [Vec::new(), Vec::new()], None);
        for now_ms in 2..=3000 {
            if got[0].len() + 100_000 > fed {
                (&small.client).write_all(&said).unwrap();
                fed += said.len();
            }
            if now_ms == 300 {
                (&large.client).write_all(&frame(&[9; 15_000])).unwrap();
            }
            stage.pass_ms(now_ms);
            receive_all(&small.upstream, &mut got[0]);
            receive_all(&large.upstream, &mut got[1]);
            if came_ms.is_none() && got[1].len() == 15_008 {
                came_ms = Some(now_ms);
            }
        }
        // 15,000 bytes flow in within 150 ms, and a small one may have its turn in between.
        assert!(came_ms.is_some_and(|came_ms| came_ms < 500), "{came_ms:?}");
        let all = got[0].len() / 508 * 500 + 15_000;
        assert!(all <= 20_000 + 300_000 && all * 100 >= 318_000 * 99, "{all} bytes in 3 s");
    }
}

#[test]
fn a_crowd_at_one_limit_keeps_nobody_from_another() {
    for mut stage in both() {
        let crowd = Limited::to(r#"{"rate": "100/s", "burst": 5}"#);
        let own = Limited::to(r#"{"rate": "1000/s", "burst": 5}"#);
        let sessions: Vec<Ends> = (0..1500).map(|_| crowd.begin(&mut stage)).collect();
        let one = own.begin(&mut stage);
        (&one.client).write_all(&numbered(0..4000)).unwrap();
        sessions.iter().for_each(|ends| (&ends.client).write_all(&numbered(0..30)).unwrap());
        let mut got = Vec::new();
        for now_ms in 2..=2000 {
            stage.pass_ms(now_ms);
            receive_all(&one.upstream, &mut got);
        }
        let passed = got.len() / NUMBERED_BYTES;
        assert!((1985..=2005).contains(&passed), "{passed} of 2005");
    }
}

#[test]
fn whose_session_hears_something_has_its_turn_no_sooner() {
    for mut stage in both() {
        let limited = Limited::to(r#"{"rate": "1000/s", "burst": 10}"#);
        let sessions: Vec<Ends> = (0..8).map(|_| limited.begin(&mut stage)).collect();
        sessions.iter().for_each(|ends| (&ends.client).write_all(&numbered(0..2000)).unwrap());
        let mut got = vec![Vec::new(); 8];
        for now_ms in 2..=1000 {
            // A ping of the endpoint's.
            (&sessions[3].upstream).write_all(&[0x89, 0]).unwrap();
            stage.pass_ms(now_ms);
            sessions.iter().zip(&mut got).for_each(|(ends, got)| receive_all(&ends.upstream, got));
        }
        let parts: Vec<usize> = got.iter().map(|got| got.len() / NUMBERED_BYTES).collect();
        assert!(parts.iter().all(|part| part.abs_diff(126) <= 13), "{parts:?}");
    }
}

#[test]
fn those_behind_one_who_goes_have_their_turn_at_once() {
    for mut stage in both() {
        let limited = Limited::to(r#"{"rate": "100/s", "burst": 2}"#);
        let mut sessions: Vec<Ends> = (0..20).map(|_| limited.begin(&mut stage)).collect();
        sessions.iter().for_each(|ends| (&ends.client).write_all(&numbered(0..50)).unwrap());
        let mut got = [Vec::new(), Vec::new()];
        for now_ms in 2..=2000 {
            if now_ms % 100 == 0 && sessions.len() > 2 {
                // The endpoint of one that waits is gone: so is what waited for it.
                sessions.remove(0);
            }
            stage.pass_ms(now_ms);
            let last = &sessions[sessions.len() - 2..];
            last.iter().zip(&mut got).for_each(|(ends, got)| receive_all(&ends.upstream, got));
        }
        let before: usize = got.iter().map(Vec::len).sum();
        for now_ms in 2001..=2400 {
            stage.pass_ms(now_ms);
            let last = &sessions[sessions.len() - 2..];
            last.iter().zip(&mut got).for_each(|(ends, got)| receive_all(&ends.upstream, got));
        }
        let passed = (got.iter().map(Vec::len).sum::<usize>() - before) / NUMBERED_BYTES;
        assert!((38..=42).contains(&passed), "{passed} of 40: nobody stands before them");
    }
}

#[test]
fn who_waits_and_whose_reader_stands_still_holds_up_nobody() {
    for mut stage in both() {
        let limited = Limited::to(r#"{"rate": "1000000/s", "burst": 20000, "count": "bytes"}"#);
        let (stuck, other) = (limited.begin(&mut stage), limited.begin(&mut stage));
        let flood: Vec<u8> = (0..2000).flat_map(|_| frame(&[7; 3000])).collect();
        let (mut left, mut now_ms) = (&flood[..], 2);
        // Until its reader, who takes nothing, has stopped it.
        while stage.sum("buffered") == 0 || now_ms < 3_000 {
            now_ms += 1;
            assert!(now_ms < 20_000, "nothing stands still");
            if let Ok(sent) = (&stuck.client).write(left) {
                left = &left[sent..];
            }
            stage.pass_ms(now_ms);
        }
        let said: Vec<u8> = (0..300_u32).flat_map(|round| frame(&vec![round as u8; 3000])).collect();
        let (mut left, mut got, begun_ms) = (&said[..], Vec::new(), now_ms);
        while got.len() < said.len() {
            now_ms += 1;
            assert!(now_ms < begun_ms + 3_000, "{} of {} bytes", got.len(), said.len());
            if let Ok(sent) = (&other.client).write(left) {
                left = &left[sent..];
            }
            stage.pass_ms(now_ms);
            receive_all(&other.upstream, &mut got);
        }
    }
}
