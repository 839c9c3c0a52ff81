//! What came out: samples, their medians, the tables for people and the document for scripts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::cells::{Cell, bar, ceiling};
use crate::load::histogram::Histogram;
use crate::load::traffic::Outcome;
use crate::processes::Memory;

/// Two medians that are closer than this are the same.
const TIE: f64 = 1.04;
const BASE: &str = "nginx";

/// One kind of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Microseconds on a CPU for each unit of work.
    Cpu,
    /// Units of work in a second on a CPU.
    PerCpuSecond,
    /// Units of work a second.
    Rate,
    /// Share of the time in which the target was on its CPU, in percent.
    Busy,
    P50,
    P99,
    P999,
    /// Resident memory of the process that has the sessions, in MiB.
    Resident,
    /// The part of it that belongs to no file, in MiB.
    Anonymous,
    /// Bytes of anonymous memory for each session.
    PerSession,
    /// Microseconds on a CPU in a second without work.
    RestCpu,
}

/// The numbers of one round.
#[derive(Debug, Clone, Default)]
pub struct Sample(BTreeMap<Measure, f64>);

/// The samples of all cells and targets, in the order in which they came.
#[derive(Default)]
pub struct Table {
    samples: BTreeMap<(&'static str, &'static str), Vec<Sample>>,
}

/// Median, smallest and largest.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    min: f64,
    max: f64,
}

impl Measure {
    fn key(self) -> &'static str {
        match self {
            Self::Cpu => "cpu_us",
            Self::PerCpuSecond => "per_cpu_second",
            Self::Rate => "per_second",
            Self::Busy => "busy_percent",
            Self::P50 => "p50_us",
            Self::P99 => "p99_us",
            Self::P999 => "p999_us",
            Self::Resident => "resident_mib",
            Self::Anonymous => "anonymous_mib",
            Self::PerSession => "bytes_per_session",
            Self::RestCpu => "rest_cpu_us_per_second",
        }
    }

    fn title(self, unit: &str) -> String {
        match self {
            Self::Cpu => format!("CPU us/{unit}"),
            Self::PerCpuSecond => format!("{unit}s/CPU s"),
            Self::Rate => format!("{unit}s/s"),
            Self::Busy => "busy %".into(),
            Self::P50 => "p50 us".into(),
            Self::P99 => "p99 us".into(),
            Self::P999 => "p99.9 us".into(),
            Self::Resident => "RSS MiB".into(),
            Self::Anonymous => "of it anonymous".into(),
            Self::PerSession => "bytes/session".into(),
            Self::RestCpu => "CPU us/s at rest".into(),
        }
    }

    /// Whether it stands with its spread: the others would make the table wide and say little more.
    fn has_spread(self) -> bool {
        matches!(self, Self::Cpu | Self::Rate | Self::PerSession | Self::P50)
    }
}

impl Sample {
    pub fn set(&mut self, measure: Measure, value: f64) {
        self.0.insert(measure, value);
    }

    /// What so much work took.
    pub fn of_work(cpu: Duration, units: u64, time: Duration) -> Outcome<Self> {
        if units == 0 {
            return Err("nothing was done in the whole round".into());
        }
        let mut sample = Self::default();
        sample.set(Measure::Cpu, cpu.as_secs_f64() * 1e6 / units as f64);
        sample.set(Measure::PerCpuSecond, units as f64 / cpu.as_secs_f64().max(1e-6));
        sample.set(Measure::Rate, units as f64 / time.as_secs_f64());
        sample.set(Measure::Busy, cpu.as_secs_f64() / time.as_secs_f64() * 100.0);
        Ok(sample)
    }

    /// What a process has while it works.
    pub fn set_memory(&mut self, memory: Memory) {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        self.set(Measure::Resident, mebibytes(memory.resident_bytes));
        self.set(Measure::Anonymous, mebibytes(memory.anonymous_bytes));
    }

    pub fn set_quantiles(&mut self, histogram: &Histogram) {
        for (measure, share) in [(Measure::P50, 0.5), (Measure::P99, 0.99), (Measure::P999, 0.999)] {
            self.set(measure, histogram.quantile(share).as_secs_f64() * 1e6);
        }
    }
}

impl Table {
    pub fn add(&mut self, cell: &Cell, target: &'static str, sample: Sample) {
        self.samples.entry((cell.name, target)).or_default().push(sample);
    }

    pub fn spread(&self, cell: &str, target: &str, measure: Measure) -> Option<Spread> {
        let samples = self.samples.iter().find(|((c, t), _)| *c == cell && *t == target)?.1;
        let mut values: Vec<_> = samples.iter().filter_map(|sample| sample.0.get(&measure).copied()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, min, max })
    }

    /// The rows of one cell.
    pub fn cell(&self, cell: &Cell, targets: &[&'static str]) -> String {
        let measures = cell.measures();
        let lead = measures[0];
        let mut rows = vec![vec!["".to_owned(), lead.title(cell.unit()), format!("x {BASE}")]];
        rows[0].extend(measures[1..].iter().map(|measure| measure.title(cell.unit())));
        let base = self.spread(cell.name, BASE, lead);
        let direct = self.spread(cell.name, "direct", Measure::P50);
        if direct.is_some() {
            rows[0].push("added p50".into());
        }
        for target in targets {
            let Some(first) = self.spread(cell.name, target, lead) else { continue };
            let ratio = base.map_or("-".into(), |base| format!("{:.2}", first.median / base.median));
            let mut row = vec![(*target).to_owned(), first.with_range(), ratio];
            for measure in &measures[1..] {
                let spread = self.spread(cell.name, target, *measure);
                row.push(spread.map_or("-".into(), |spread| match measure.has_spread() {
                    true => spread.with_range(),
                    false => number(spread.median),
                }));
            }
            if let (Some(direct), Some(ours)) = (direct, self.spread(cell.name, target, Measure::P50)) {
                row.push(number(ours.median - direct.median));
            }
            rows.push(row);
        }
        format!("{}: {}\n{}", cell.name, cell.describe(), aligned(&rows))
    }

    /// One of ours against every peer, where there is a bar.
    pub fn bars(&self, cells: &[&Cell], ours: &str, peers: &[&'static str]) -> Option<String> {
        let mut rows = vec![
            [&["CPU (idle: memory), ratio to"][..], peers].concat().into_iter().map(str::to_owned).collect::<Vec<_>>(),
        ];
        for cell in cells {
            let lead = cell.measures()[0];
            let Some(mine) = self.spread(cell.name, ours, lead) else { continue };
            let against = |peer: &&str| {
                let Some(theirs) = self.spread(cell.name, peer, lead) else { return "-".into() };
                let ratio = mine.median / theirs.median;
                match bar(cell.name, peer) {
                    Some(bar) if lead == Measure::PerSession => {
                        format!("{ratio:.2} (< {bar:.2}) {}", if ratio < bar { "met" } else { "SHORT" })
                    }
                    Some(bar) => format!("{ratio:.2} ({bar:.2}) {}", verdict(ratio, bar)),
                    None => format!("{ratio:.2}"),
                }
            };
            rows.push([cell.name.to_owned()].into_iter().chain(peers.iter().map(against)).collect());
        }
        let mut text = String::new();
        if rows.len() > 1 {
            text += &aligned(&rows);
        }
        for cell in cells {
            for measure in [Measure::PerSession, Measure::Resident] {
                let (Some(most), Some(spread)) = (ceiling(cell.name, measure), self.spread(cell.name, ours, measure))
                else {
                    continue;
                };
                let (title, value) = (measure.title(cell.unit()), spread.with_range());
                let verdict = verdict(spread.median, most);
                let _ = writeln!(text, "{}: {title} {value}, at most {most}: {verdict}", cell.name);
            }
        }
        let heading = format!("{ours}: ratio to the peer (the bar); a tie is within 4 % above the bar\n");
        (!text.is_empty()).then(|| heading + &text)
    }

    /// For scripts: every sample.
    pub fn json(&self) -> serde_json::Value {
        let rows = self.samples.iter().map(|((cell, target), samples)| {
            let keys: Vec<_> = samples.iter().flat_map(|sample| sample.0.keys().copied()).collect();
            let measures = keys.into_iter().filter_map(|measure| {
                let spread = self.spread(cell, target, measure)?;
                let all: Vec<_> = samples.iter().filter_map(|sample| sample.0.get(&measure)).collect();
                let value = serde_json::json!({
                    "median": spread.median, "min": spread.min, "max": spread.max, "samples": all,
                });
                Some((measure.key().to_owned(), value))
            });
            let measures: serde_json::Map<_, _> = measures.collect();
            serde_json::json!({ "cell": cell, "target": target, "measures": measures })
        });
        rows.collect()
    }
}

impl Spread {
    fn with_range(self) -> String {
        format!("{} ({}-{})", number(self.median), number(self.min), number(self.max))
    }
}

fn verdict(value: f64, bar: f64) -> &'static str {
    // The bars have two digits, and so has what is printed.
    let value = if bar < 10.0 { (value * 100.0).round() / 100.0 } else { value };
    match value {
        value if value <= bar => "met",
        value if value <= bar * TIE => "tie",
        _ => "SHORT",
    }
}

/// Four digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.2}"),
        size if size < 100_000.0 => format!("{value:.0}"),
        _ => format!("{:.0}k", value / 1000.0),
    }
}

/// Columns as wide as their widest entry.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: String = row.iter().zip(&widths).map(|(entry, width)| format!("  {entry:<width$}")).collect();
        text += line.trim_end();
        text += "\n";
    }
    text
}
