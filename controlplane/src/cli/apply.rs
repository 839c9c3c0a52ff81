//! `apply FILE`: makes a file the control plane's source and publishes it.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use proto::control::message::Request;

use super::{Asking, Verdict, absolute};
use crate::answer::{Applied, Outcome};

/// Options of `apply`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The control plane reads the file from now on, also after its restart.\n\n\
    Exit codes: 0 every connected data plane serves it, 1 the file is not sound or a data plane refused it or did not \
    answer (what it served before, it serves on), 2 the control plane cannot be reached.")]
pub struct Options {
    /// The configuration
    file: PathBuf,
    #[command(flatten)]
    asking: Asking,
}

/// Applies the file.
pub fn run(options: Options) -> ExitCode {
    let file = absolute(&options.file).display().to_string();
    options.asking.ask(Request::Apply { file }, show, judge)
}

/// What `apply` and `reload` found.
pub(super) fn judge(applied: &Applied) -> Verdict {
    Verdict::of(applied.ok)
}

/// What `apply` and `reload` show.
pub(super) fn show(applied: &Applied, text: &mut String) {
    let Applied { file, generation, diagnostics, warnings, nodes, .. } = applied;
    for one in diagnostics {
        let _ = writeln!(text, "{one}");
    }
    for one in warnings {
        let _ = writeln!(text, "warning: {one}");
    }
    let Some(generation) = generation else {
        let _ = writeln!(text, "{file} is not sound; what runs, runs on");
        return;
    };
    let _ = writeln!(text, "{file} is generation {}", generation.number);
    if nodes.is_empty() {
        let _ = writeln!(text, "no data plane is connected; it is sent to each that connects");
    }
    for node in nodes {
        let name = format!("{} (pid {})", node.node, node.pid);
        let _ = match node.outcome {
            Outcome::Applied => {
                let ms = node.micros.unwrap_or(0) as f64 / 1000.0;
                writeln!(text, "  {name}: applied in {ms:.1} ms")
            }
            Outcome::Rejected => {
                let _ = writeln!(text, "  {name}: rejected; it serves what it served");
                node.reasons.iter().try_for_each(|reason| writeln!(text, "    {reason}"))
            }
            Outcome::Superseded => writeln!(text, "  {name}: a later generation has taken its place"),
            Outcome::Silent => writeln!(text, "  {name}: has not answered yet; `framegate status` will say"),
            Outcome::Gone => writeln!(text, "  {name}: has disconnected"),
        };
    }
}
