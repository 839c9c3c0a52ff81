//! `usage`: what is used of limits, by key: how much, how much is left, and when it is there again.

use std::fmt::Write;
use std::process::ExitCode;

use proto::control::message::{Request, UsageAsked};
use proto::snapshot::Unit;

use super::table::{count, table};
use super::{Asking, Verdict};
use crate::answer::{Used, UsedRow};

/// Options of `usage`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 every data plane answered, 1 one did not, 2 the control plane cannot be reached."
)]
pub struct Options {
    /// Only of this API: NAME:VERSION, or NAME for all versions
    #[arg(long, value_name = "API")]
    api: Option<String>,
    /// Only of this application
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// Only of this plan
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    /// At most so many, those of which the largest part is used [default: 1000, which is the most]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    top: Option<u32>,
    #[command(flatten)]
    asking: Asking,
}

const _: () = assert!(proto::limits::USAGE_ROWS_MAX == 1000, "the sentence about --top says so");

/// Asks and shows.
pub fn run(options: Options) -> ExitCode {
    let Options { api, application, plan, top, asking } = options;
    let asked = UsageAsked { api, application, plan, rows_max: top.unwrap_or(0) };
    asking.ask(Request::Usage(asked), show, |used: &Used| Verdict::of(used.silent.is_empty()))
}

fn show(used: &Used, text: &mut String) {
    if used.rows.is_empty() {
        let _ = writeln!(text, "nothing is used of any limit that fits");
    } else {
        let heading = [
            "LEVEL", "KEY", "PLAN", "LIMIT", "COUNTS", "USED", "LEFT", "PART", "RESETS", "STOPPED", "SESSIONS", "NODE",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(used.rows.iter().map(row));
        text.push_str(&table(&rows));
    }
    let shown = used.rows.len() as u64;
    if used.total > shown {
        let _ = writeln!(text, "{} more; --api, --application and --plan narrow it down", used.total - shown);
    }
    for (node, pid) in &used.silent {
        let _ = writeln!(text, "{node} (pid {pid}) has not answered");
    }
    let nodes: std::collections::BTreeSet<_> = used.rows.iter().map(|row| (&row.node, row.pid)).collect();
    if nodes.len() > 1 {
        let _ = writeln!(text, "{} count, each for itself", count(nodes.len() as u64, "data plane"));
    }
}

fn row(one: &UsedRow) -> Vec<String> {
    let counts = match one.count {
        Unit::Messages => "messages",
        Unit::Frames => "frames",
        Unit::Bytes => "bytes",
    };
    let resets = one.resets.map_or("never".into(), |at| at.to_string());
    vec![
        one.level.clone(),
        one.key.clone(),
        one.plan.clone(),
        one.limit.clone(),
        counts.into(),
        one.used.to_string(),
        one.left.to_string(),
        part(one.used, one.amount),
        if one.used == 0 { "-".into() } else { resets },
        one.stopped.to_string(),
        one.sessions.to_string(),
        one.node.clone(),
    ]
}

/// Which part is used, in whole percent; what is nearly all of it is not called all.
fn part(used: u64, amount: u64) -> String {
    match (used, amount) {
        (_, 0) => "100%".into(),
        (used, amount) => format!("{}%", u128::from(used) * 100 / u128::from(amount)),
    }
}

#[cfg(test)]
mod tests {
    use proto::snapshot::Timestamp;

    use super::*;

    #[test]
    fn a_row_says_how_much_is_left_and_what_was_left_out_is_said() {
        let one = UsedRow {
            node: "edge".into(),
            level: "subscription".into(),
            key: "mobile at chat:v1".into(),
            plan: "AsyncGold".into(),
            limit: "50000/day".into(),
            amount: 50_000,
            used: 49_999,
            left: 1,
            resets: Some(Timestamp::from_secs(1_800_000_000)),
            stopped: 7,
            sessions: 3,
            ..UsedRow::default()
        };
        let untouched = UsedRow { used: 0, left: 50_000, ..one.clone() };
        let used = Used { rows: vec![one, untouched], total: 9, silent: vec![("other".into(), 5)] };
        let mut text = String::new();
        show(&used, &mut text);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("LEVEL         KEY                PLAN"), "{text}");
        for cell in ["mobile at chat:v1", "49999", " 99% ", "2027-01-15T08:00:00Z", " 7 ", "edge"] {
            assert!(lines[1].contains(cell), "{cell}: {text}");
        }
        assert!(lines[2].contains(" 0% ") && lines[2].contains(" - "), "{text}");
        assert_eq!(lines[3], "7 more; --api, --application and --plan narrow it down");
        assert_eq!(lines[4], "other (pid 5) has not answered");

        text.clear();
        show(&Used::default(), &mut text);
        assert_eq!(text, "nothing is used of any limit that fits\n");
    }

    #[test]
    fn of_no_room_all_is_used() {
        assert_eq!([part(0, 0), part(5, 10), part(15, 10)], ["100%", "50%", "150%"]);
    }
}
