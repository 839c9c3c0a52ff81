//! `status`: how the control plane and its data planes stand.

use std::fmt::Write;
use std::process::ExitCode;

use proto::control::message::{Generation, Request};

use super::table::{count, table, time};
use super::{Asking, Verdict};
use crate::answer::{Counted, NodeStatus, Status};

/// Options of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 the control plane answered, 2 it cannot be reached.")]
pub struct Options {
    #[command(flatten)]
    asking: Asking,
}

/// Asks and shows.
pub fn run(options: Options) -> ExitCode {
    options.asking.ask(Request::Status, show, |_| Verdict::Yes)
}

fn show(status: &Status, text: &mut String) {
    let one = &status.control_plane;
    let _ = writeln!(text, "control plane  {}, pid {}, up {}", one.software, one.pid, time(one.uptime_s));
    let _ = writeln!(text, "source         {}", one.file);
    if let Some(started_with) = &one.started_with {
        let _ = writeln!(text, "               applied over {started_with}");
    }
    let generation = one.generation.as_ref().map_or("none yet".into(), |one| one.number.to_string());
    let _ = writeln!(text, "generation     {generation}");
    if !one.diagnostics.is_empty() {
        let _ = writeln!(text, "the source is not sound as it stands:");
        for diagnostic in &one.diagnostics {
            let _ = writeln!(text, "  {diagnostic}");
        }
    }
    for warning in &one.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    show_objects(status, text);
    show_nodes(status, text);
    show_certificates(status, text);
    show_tokens(status, text);
}

fn show_objects(status: &Status, text: &mut String) {
    let told = |one: &Counted| {
        let noun = match one.kind.as_str() {
            "api" => "API",
            kind => kind,
        };
        let stored = if one.stored > 0 { format!(" ({} stored)", one.stored) } else { String::new() };
        count(one.total, noun) + &stored
    };
    if !status.objects.is_empty() {
        let _ = writeln!(text, "objects        {}", status.objects.iter().map(told).collect::<Vec<_>>().join(", "));
    }
}

fn show_nodes(status: &Status, text: &mut String) {
    if status.nodes.is_empty() {
        let _ = writeln!(text, "no data plane is connected");
        return;
    }
    let heading = ["NODE", "PID", "VERSION", "GENERATION", "SESSIONS", "DRIVER", "ENGINE", "WORKERS", "UP", "STATE"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(status.nodes.iter().map(|node| row(node, status.control_plane.generation.as_ref())));
    let _ = write!(text, "\n{}", table(&rows));
    for node in &status.nodes {
        if let Some(reject) = &node.last_reject {
            let _ =
                writeln!(text, "{} (pid {}) rejected generation {}:", node.node, node.pid, reject.generation.number);
            for reason in &reject.reasons {
                let _ = writeln!(text, "  {reason}");
            }
        }
    }
}

fn show_certificates(status: &Status, text: &mut String) {
    let list = |words: &[String]| if words.is_empty() { "-".into() } else { words.join(", ") };
    if !status.certificates.is_empty() {
        let heading = ["CERTIFICATE", "NAMES", "ISSUER", "NOT AFTER", "LEFT", "USED BY"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(status.certificates.iter().map(|one| {
            let (names, users) = (list(&one.server_names), list(&one.used_by));
            vec![one.name.clone(), names, one.issuer.clone(), one.not_after.clone(), left(one.days_left), users]
        }));
        let _ = write!(text, "\n{}", table(&rows));
    }
    if !status.authorities.is_empty() {
        let heading = ["AUTHORITIES", "CERTIFICATES", "FIRST TO END", "NOT AFTER", "LEFT", "USED BY"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(status.authorities.iter().map(|one| {
            let (count, users) = (one.certificates.to_string(), list(&one.used_by));
            vec![one.name.clone(), count, one.first_to_end.clone(), one.not_after.clone(), left(one.days_left), users]
        }));
        let _ = write!(text, "\n{}", table(&rows));
    }
}

fn show_tokens(status: &Status, text: &mut String) {
    if let Some(endpoint) = &status.token_endpoint {
        let address = endpoint.address.as_deref().unwrap_or("nowhere");
        let _ = writeln!(text, "\ntoken endpoint {address}");
        if let Some(fault) = &endpoint.fault {
            let _ = writeln!(text, "               {fault}");
        }
        let signing = endpoint.signing.as_deref().unwrap_or("none yet");
        let next = endpoint.next_change.as_ref().map(|next| format!(", next change {next}")).unwrap_or_default();
        let _ = writeln!(text, "               signs with {signing}, {}{next}", count(endpoint.keys, "key"));
    }
    if status.issuers.is_empty() {
        return;
    }
    let heading = ["ISSUER", "ISS", "KEYS", "LAST FETCHED", "NEXT", "INTROSPECTION"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(status.issuers.iter().map(|one| {
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".into());
        let introspection = if one.introspection { "yes" } else { "-" };
        let (fetched, next) = (time(&one.fetched), time(&one.next));
        vec![one.name.clone(), one.issuer.clone(), one.keys.to_string(), fetched, next, introspection.into()]
    }));
    let _ = write!(text, "\n{}", table(&rows));
    for one in &status.issuers {
        if let (Some(url), Some(fault)) = (&one.url, &one.fault) {
            let _ = writeln!(text, "{}: {url}: {fault}", one.name);
        }
    }
}

/// Days as a table has room for them.
fn left(days: i64) -> String {
    if days < 0 { "run out".into() } else { format!("{days}d") }
}

fn row(node: &NodeStatus, current: Option<&Generation>) -> Vec<String> {
    // A number of another source says nothing beside ours.
    let generation = match &node.generation {
        None => "-".into(),
        Some(generation) if current.is_none_or(|current| current.source == generation.source) => {
            generation.number.to_string()
        }
        Some(generation) => format!("{} of {}", generation.number, generation.source),
    };
    let state = match node {
        NodeStatus { draining: true, .. } => "draining",
        NodeStatus { in_flight: Some(_), .. } => "applying",
        NodeStatus { last_reject: Some(_), .. } => "rejected the last",
        NodeStatus { generation: None, .. } => "waiting",
        _ => "serving",
    };
    vec![
        node.node.clone(),
        node.pid.to_string(),
        node.software.clone(),
        generation,
        node.sessions.to_string(),
        node.driver.clone(),
        engine(node),
        node.workers.to_string(),
        time(node.uptime_s),
        state.into(),
    ]
}

/// What moves the node's bytes, with what it does beside that.
fn engine(node: &NodeStatus) -> String {
    if node.splice { format!("{}, splice", node.engine) } else { node.engine.clone() }
}
