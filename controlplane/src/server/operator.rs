//! One operator's request, and its answer.

use std::path::PathBuf;
use std::sync::Arc;

use proto::control::Message;
use proto::control::message::{Drain, Request, Response};
use serde::Serialize;

use crate::answer::Drained;
use crate::office::Office;

/// Does what is asked and says what came of it.
pub async fn answer(request: Request, office: &Arc<Office>) -> Response {
    match request {
        Request::Status => response(true, &office.status().await),
        Request::Reload => {
            let applied = office.reload("an operator asked").await;
            response(applied.ok, &applied)
        }
        Request::Apply { file } => {
            let applied = office.apply(PathBuf::from(file)).await;
            response(applied.ok, &applied)
        }
        Request::Diff { file } => {
            let diff = office.diff(PathBuf::from(file)).await;
            response(diff.diagnostics.is_empty(), &diff)
        }
        Request::Usage(asked) => response(true, &office.usage(asked).await),
        Request::Drain { node, window_ms } => {
            let wanted = |name: &str| node.as_deref().is_none_or(|node| node == name);
            let told = office.publisher().tell(&Message::Drain(Drain { window_ms }), wanted);
            let nodes: Vec<_> = told.into_iter().map(|(_, node, pid)| (node, pid)).collect();
            tracing::info!(nodes = nodes.len(), "an operator asked to drain");
            response(!nodes.is_empty(), &Drained { ok: !nodes.is_empty(), nodes })
        }
    }
}

fn response<T: Serialize>(ok: bool, answer: &T) -> Response {
    Response { ok, json: serde_json::to_string(answer).expect("answers are plain data with text keys") }
}
