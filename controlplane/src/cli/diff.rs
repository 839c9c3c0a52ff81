//! `diff FILE`: what applying a file would change, and what becomes of live sessions.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use proto::control::message::Request;

use super::table::count;
use super::{Asking, Verdict, absolute};
use crate::answer::{Action, Change, Diff, Effect, Field, Kind, Touched};

/// Options of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 the file says what runs now, 1 it differs, 2 the file is not sound or the \
    control plane cannot be reached.")]
pub struct Options {
    /// The configuration
    file: PathBuf,
    #[command(flatten)]
    asking: Asking,
}

/// Compares the file with what runs.
pub fn run(options: Options) -> ExitCode {
    let file = absolute(&options.file).display().to_string();
    options.asking.ask(Request::Diff { file }, show, judge)
}

fn judge(diff: &Diff) -> Verdict {
    match (diff.diagnostics.is_empty(), diff.equal) {
        (false, _) => Verdict::Unknown,
        (true, is_equal) => Verdict::of(is_equal),
    }
}

fn show(diff: &Diff, text: &mut String) {
    for one in &diff.diagnostics {
        let _ = writeln!(text, "{one}");
    }
    if !diff.diagnostics.is_empty() {
        let _ = writeln!(text, "{} is not sound; nothing was compared", diff.file);
        return;
    }
    let against = match &diff.generation {
        Some(generation) => format!("generation {}", generation.number),
        None => "nothing: no generation runs".into(),
    };
    let _ = writeln!(text, "{} against {against}", diff.file);
    for one in &diff.warnings {
        let _ = writeln!(text, "warning: {one}");
    }
    if diff.equal {
        let _ = writeln!(text, "no differences");
    }
    for change in &diff.changes {
        show_change(change, diff.sessions.iter().find(|touched| touched.api == change.name), text);
    }
    // Whom plans, policies and denials reach is seen at no API that changed itself.
    let changed = |api: &str| diff.changes.iter().any(|change| change.kind == Kind::Api && change.name == api);
    for touched in diff.sessions.iter().filter(|touched| !changed(&touched.api)) {
        let _ = writeln!(text, "{}: {}", touched.api, becomes(touched));
    }
}

fn show_change(change: &Change, touched: Option<&Touched>, text: &mut String) {
    let sign = match change.change {
        Action::Added => '+',
        Action::Removed => '-',
        Action::Changed => '~',
    };
    let kind = match change.kind {
        Kind::Settings => "settings",
        Kind::Certificate => "certificate",
        Kind::Authorities => "authorities",
        Kind::Listener => "listener",
        Kind::Upstream => "upstream",
        Kind::Api => "api",
        Kind::Plan => "plan",
        Kind::LimitPolicy => "policy of limits",
        Kind::Limit => "limit",
        Kind::Denial => "denial",
        Kind::Issuer => "issuer",
        Kind::Assertion => "assertion",
        Kind::Application => "application",
        Kind::Subscription => "subscription",
        Kind::Key => "key",
        Kind::User => "user",
        Kind::Revocation => "revocation",
    };
    let line = format!("{sign} {kind} {}", change.name);
    let _ = writeln!(text, "{}", line.trim_end());
    for Field { field, before, after } in &change.fields {
        let value = |value: &Option<serde_json::Value>| value.as_ref().map_or("default".into(), ToString::to_string);
        let _ = writeln!(text, "    {field}: {} -> {}", value(before), value(after));
    }
    if let Some(touched) = touched.filter(|_| change.kind == Kind::Api) {
        let _ = writeln!(text, "    {}", becomes(touched));
    }
}

/// How many sessions, and what becomes of them.
fn becomes(touched: &Touched) -> String {
    let effect = match touched.effect {
        Effect::Untouched => "untouched; new sessions get the new",
        Effect::LimitsFromNextMessage => "the new limits hold from the next message",
        Effect::Drained => "closed with 1012 over the drain window",
    };
    format!("{}: {effect}", count(touched.sessions, "live session"))
}
