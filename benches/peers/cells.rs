//! What is measured: the cells of the table, and the bars that Framegate is held to in them.

use crate::certificates::Key;
use crate::load::handshakes::Farewell;
use crate::report::Measure;
use crate::targets::{Target, Upstream};

/// One line of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub name: &'static str,
    pub work: Work,
    /// Whether TLS is spoken, and where.
    pub tls: Option<Tls>,
    /// Measured with `--quick` too.
    pub quick: bool,
    /// Where a Unix socket in the place of loopback TCP shows.
    pub on_unix_too: bool,
}

/// TLS with clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tls {
    pub key: Key,
    /// And with the echo behind the target.
    pub upstream_too: bool,
    /// Clients resume earlier sessions.
    pub resumed: bool,
}

/// What clients do.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// As many messages as there is room for, so many in flight on each connection.
    Echo { payload_bytes: usize, connections: usize, depth: usize },
    /// Short sessions on so many loops.
    Handshakes { loops: usize, farewell: Farewell },
    /// So many sessions that have echoed a message each, and then nothing.
    Idle { sessions: usize },
    /// A message now and then.
    Sparse { connections: usize, messages_per_second: u32 },
}

pub const CELLS: [Cell; 32] = [
    echo("64B-c1-d1", 64, 1, 1),
    Cell { quick: true, on_unix_too: true, ..echo("64B-c64-d1", 64, 64, 1) },
    echo("64B-c64-d16", 64, 64, 16),
    Cell { quick: true, on_unix_too: true, ..echo("64B-c1000-d1", 64, 1000, 1) },
    echo("64B-c9000-d1", 64, 9000, 1),
    Cell { on_unix_too: true, ..echo("1KiB-c64-d1", 1024, 64, 1) },
    Cell { quick: true, on_unix_too: true, ..echo("16KiB-c64-d1", 16 << 10, 64, 1) },
    echo("64KiB-c16-d1", 64 << 10, 16, 1),
    echo("64KiB-c16-d16", 64 << 10, 16, 16),
    echo("256KiB-c8-d1", 256 << 10, 8, 1),
    Cell { quick: true, ..echo("1MiB-c4-d1", 1 << 20, 4, 1) },
    Cell { quick: true, ..cell("handshake", Work::Handshakes { loops: 32, farewell: Farewell::Frame }) },
    cell("handshake-cut", Work::Handshakes { loops: 32, farewell: Farewell::None }),
    Cell { on_unix_too: true, ..cell("latency", Work::Sparse { connections: 16, messages_per_second: 200 }) },
    Cell { quick: true, ..cell("idle-1000", Work::Idle { sessions: 1000 }) },
    cell("idle-9000", Work::Idle { sessions: 9000 }),
    wss(echo("wss-64B-c1-d1", 64, 1, 1)),
    Cell { quick: true, ..wss(echo("wss-64B-c64-d1", 64, 64, 1)) },
    wss(echo("wss-16KiB-c1-d1", 16 << 10, 1, 1)),
    Cell { quick: true, ..wss(echo("wss-16KiB-c64-d1", 16 << 10, 64, 1)) },
    wss(echo("wss-256KiB-c1-d1", 256 << 10, 1, 1)),
    Cell { quick: true, ..wss(echo("wss-256KiB-c8-d1", 256 << 10, 8, 1)) },
    on_both_legs(echo("wss-wss-64B-c64-d1", 64, 64, 1)),
    on_both_legs(echo("wss-wss-16KiB-c64-d1", 16 << 10, 64, 1)),
    on_both_legs(echo("wss-wss-256KiB-c8-d1", 256 << 10, 8, 1)),
    Cell { quick: true, ..wss(lives("wss-handshake")) },
    Cell { quick: true, ..resumed(wss(lives("wss-handshake-resumed"))) },
    with_rsa(wss(lives("wss-handshake-rsa"))),
    Cell { quick: true, ..wss(shakes("tls-handshake")) },
    with_rsa(wss(shakes("tls-handshake-rsa"))),
    wss(cell("wss-idle-4000", Work::Idle { sessions: 4000 })),
    on_both_legs(cell("wss-wss-idle-4000", Work::Idle { sessions: 4000 })),
];

const fn echo(name: &'static str, payload_bytes: usize, connections: usize, depth: usize) -> Cell {
    cell(name, Work::Echo { payload_bytes, connections, depth })
}

const fn lives(name: &'static str) -> Cell {
    cell(name, Work::Handshakes { loops: 32, farewell: Farewell::Frame })
}

const fn shakes(name: &'static str) -> Cell {
    cell(name, Work::Handshakes { loops: 32, farewell: Farewell::AtOnce })
}

const fn cell(name: &'static str, work: Work) -> Cell {
    Cell { name, work, tls: None, quick: false, on_unix_too: false }
}

const fn wss(cell: Cell) -> Cell {
    Cell { tls: Some(Tls { key: Key::EcdsaP256, upstream_too: false, resumed: false }), ..cell }
}

const fn on_both_legs(cell: Cell) -> Cell {
    Cell { tls: Some(Tls { key: Key::EcdsaP256, upstream_too: true, resumed: false }), ..cell }
}

const fn resumed(cell: Cell) -> Cell {
    match cell.tls {
        Some(tls) => Cell { tls: Some(Tls { resumed: true, ..tls }), ..cell },
        None => cell,
    }
}

const fn with_rsa(cell: Cell) -> Cell {
    match cell.tls {
        Some(tls) => Cell { tls: Some(Tls { key: Key::Rsa2048, ..tls }), ..cell },
        None => cell,
    }
}

impl Cell {
    /// Whether the target has a place in it.
    pub fn admits(&self, target: &Target) -> bool {
        let sparse = matches!(self.work, Work::Sparse { .. });
        match target.upstream {
            _ if self.tls.is_some() => target.speaks_tls,
            _ if target.name == "direct" => sparse,
            Upstream::Unix => self.on_unix_too,
            Upstream::Tcp => true,
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        let work = self.describe_work();
        let Some(tls) = self.tls else { return work };
        let legs = if tls.upstream_too { "wss on both legs" } else { "wss in, ws out" };
        let shaken = match self.work {
            Work::Handshakes { .. } if tls.resumed => ", sessions resumed",
            Work::Handshakes { .. } if tls.key == Key::Rsa2048 => ", full handshakes, RSA 2048",
            Work::Handshakes { .. } => ", full handshakes, ECDSA P-256",
            _ => "",
        };
        format!("{legs}{shaken}: {work}")
    }

    fn describe_work(&self) -> String {
        match self.work {
            Work::Echo { payload_bytes, connections, depth } => {
                let size = if payload_bytes % 1024 == 0 {
                    format!("{} KiB", payload_bytes / 1024)
                } else {
                    format!("{payload_bytes} B")
                };
                format!("{size}, {connections} connections, {depth} in flight on each")
            }
            Work::Handshakes { loops, farewell: Farewell::Frame } => {
                format!("connect, upgrade, one echo, closing handshake; {loops} loops")
            }
            Work::Handshakes { loops, farewell: Farewell::None } => {
                format!("connect, upgrade, one echo, cut without a close frame; {loops} loops")
            }
            Work::Handshakes { loops, farewell: Farewell::AtOnce } => {
                format!("connect, TLS handshake, close_notify, the end; {loops} loops")
            }
            Work::Idle { sessions } => format!("{sessions} sessions that have echoed 1 KiB each, and then nothing"),
            Work::Sparse { connections, messages_per_second } => {
                format!("64 B, {messages_per_second} messages/s on {connections} connections")
            }
        }
    }

    /// What one unit of the work is called.
    pub fn unit(&self) -> &'static str {
        match self.work {
            Work::Handshakes { .. } => "handshake",
            _ => "message",
        }
    }

    /// What its table shows.
    pub fn measures(&self) -> &'static [Measure] {
        use Measure::{Anonymous, Busy, Cpu, P50, P99, P999, PerCpuSecond, PerSession, Rate, Resident, RestCpu};
        match self.work {
            Work::Idle { .. } => &[PerSession, Resident, Anonymous, RestCpu],
            Work::Handshakes { .. } if self.tls.is_some() => {
                &[Cpu, PerCpuSecond, Rate, Busy, P50, P99, P999, Resident, Anonymous]
            }
            _ => &[Cpu, Rate, Busy, P50, P99, P999, Resident, Anonymous],
        }
    }
}

/// The most that Framegate's lead measure may be of a peer's: CPU per unit, or where sessions are idle the memory of one.
pub fn bar(cell: &str, peer: &str) -> Option<f64> {
    let [nginx, nginx64k, haproxy, others] = match cell {
        "64B-c64-d1" => [0.96, 0.96, 0.78, 0.58],
        "64B-c1000-d1" => [0.78, 0.78, 0.62, 0.45],
        "1KiB-c64-d1" => [0.97, 0.97, 0.82, 0.55],
        "16KiB-c64-d1" => [0.34, 1.00, 0.52, 0.60],
        "64KiB-c16-d1" => [0.25, 0.85, 0.53, 0.65],
        "256KiB-c8-d1" => [0.18, f64::NAN, f64::NAN, f64::NAN],
        "1MiB-c4-d1" => [0.45, 0.55, 0.75, 0.70],
        "handshake" | "handshake-cut" => [1.00, 1.00, 0.90, 0.50],
        "wss-64B-c1-d1" | "wss-64B-c64-d1" | "wss-wss-64B-c64-d1" => [1.00, 1.00, f64::NAN, f64::NAN],
        "wss-16KiB-c1-d1" | "wss-16KiB-c64-d1" | "wss-wss-16KiB-c64-d1" => [1.00, 1.00, f64::NAN, f64::NAN],
        "wss-256KiB-c1-d1" | "wss-256KiB-c8-d1" | "wss-wss-256KiB-c8-d1" => [1.00, 1.00, f64::NAN, f64::NAN],
        "wss-handshake" | "tls-handshake" | "wss-handshake-resumed" | "tls-handshake-resumed" => {
            [1.10, 1.10, f64::NAN, f64::NAN]
        }
        // Below, and not as much: there is no tie.
        "wss-idle-4000" => [1.00, 1.00, f64::NAN, f64::NAN],
        _ => return None,
    };
    let bar = match peer {
        "nginx" => nginx,
        "nginx64k" => nginx64k,
        "haproxy" | "haproxy64k" => haproxy,
        "envoy" | "pingora" => others,
        _ => return None,
    };
    (!bar.is_nan()).then_some(bar)
}

/// The most that a measure of Framegate's own may be.
pub fn ceiling(cell: &str, measure: Measure) -> Option<f64> {
    match (cell, measure) {
        ("idle-1000" | "idle-9000", Measure::PerSession) => Some(1000.0),
        ("64B-c1000-d1", Measure::Resident) => Some(12.0),
        _ => None,
    }
}
