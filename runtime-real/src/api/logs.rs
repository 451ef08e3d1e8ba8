//! `GET /v1/logs`: the output of allocs as server-sent events, merged in time order.
//!
//! What was written before comes sorted; with `follow`, what is written from then on comes as it
//! is written, also of allocs that are placed later.

use std::collections::BTreeSet;
use std::convert::Infallible;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::{Stream, StreamExt as _, stream};
use mill_core::api::view::AllocView;
use mill_core::api::{Answer, ApiError, ErrorCode, Request};
use mill_core::name::AllocId;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Duration;

use super::{Serving, refusal};
use crate::docker::{LogLine, LogOptions};

/// How often a follower looks for allocs that were placed since.
const LOOK_FOR_NEW: Duration = Duration::from_secs(1);
/// Lines that wait for a slow reader.
const LINES_WAITING: usize = 256;

#[derive(Clone, Deserialize)]
struct LogsQuery {
    /// Services, slots or allocs, separated by commas; all when absent.
    names: Option<String>,
    /// Lines of each alloc to begin with.
    tail: Option<u32>,
    #[serde(default)]
    follow: bool,
    /// Milliseconds since the Unix epoch.
    since: Option<u64>,
    /// Also allocs that have ended.
    #[serde(default)]
    all: bool,
}

#[derive(Serialize)]
struct Line {
    alloc: AllocId,
    #[serde(flatten)]
    line: LogLine,
}

pub(super) fn router() -> Router<Serving> {
    Router::new().route("/v1/logs", get(logs))
}

async fn logs(State(serving): State<Serving>, Query(query): Query<LogsQuery>) -> Response {
    let allocs = match matching(&serving, &query).await {
        Ok(allocs) => allocs,
        Err(error) => return refusal(error),
    };
    let (lines, receiver) = mpsc::channel(LINES_WAITING);
    tokio::spawn(send_logs(serving, query, allocs, lines));
    let events = stream::unfold(receiver, async |mut receiver| {
        let line: Line = receiver.recv().await?;
        Some((event(&line), receiver))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

fn event(line: &Line) -> Result<Event, Infallible> {
    Ok(Event::default().json_data(line).expect("a line has text keys only"))
}

/// Allocs that the query names.
async fn matching(serving: &Serving, query: &LogsQuery) -> Result<Vec<AllocId>, ApiError> {
    let answer = serving.handle.ask(Request::Allocs { service: None }).await?;
    let Answer::Allocs(views) = answer else {
        return Err(ApiError::new(ErrorCode::Internal, "the node answered something else"));
    };
    let names: Vec<&str> = query.names.iter().flat_map(|names| names.split(',')).collect();
    let named = |name: &str, view: &AllocView| {
        view.slot.service.as_str() == name
            || view.slot.to_string() == name
            || view.id.as_str() == name
    };
    for name in &names {
        if !views.iter().any(|view| named(name, view)) {
            let message = format!("no service, slot or alloc `{name}` has any output");
            return Err(
                ApiError::new(ErrorCode::NotFound, message).hint("`mill ps` lists what there is")
            );
        }
    }
    let wanted = views.into_iter().filter(|view| {
        let live = query.all || !view.phase.is_end();
        live && (names.is_empty() || names.iter().any(|name| named(name, view)))
    });
    Ok(wanted.map(|view| view.id).collect())
}

async fn send_logs(
    serving: Serving,
    query: LogsQuery,
    allocs: Vec<AllocId>,
    lines: mpsc::Sender<Line>,
) {
    let mut past: Vec<Line> = Vec::new();
    let options = LogOptions { follow: false, tail: query.tail, since: query.since };
    for alloc in &allocs {
        past.extend(read(&serving, alloc, options.clone()).collect::<Vec<_>>().await);
    }
    past.sort_by_key(|line| line.line.at);
    let last = past.last().map(|line| line.line.at);
    for line in past {
        if lines.send(line).await.is_err() {
            return;
        }
    }
    if query.follow {
        follow(serving, query, allocs, last, lines).await;
    }
}

/// Follows every alloc from `after` on, and those that come later from their beginning.
async fn follow(
    serving: Serving,
    query: LogsQuery,
    allocs: Vec<AllocId>,
    after: Option<u64>,
    lines: mpsc::Sender<Line>,
) {
    let mut known: BTreeSet<AllocId> = BTreeSet::new();
    let mut next: Vec<(AllocId, Option<u64>)> =
        allocs.into_iter().map(|alloc| (alloc, after.map(|at| at + 1).or(query.since))).collect();
    while !lines.is_closed() {
        for (alloc, since) in next {
            if known.insert(alloc.clone()) {
                let options = LogOptions { follow: true, tail: None, since };
                tokio::spawn(forward(serving.clone(), alloc, options, lines.clone()));
            }
        }
        tokio::time::sleep(LOOK_FOR_NEW).await;
        let found = matching(&serving, &query).await.unwrap_or_default();
        next = found.into_iter().map(|alloc| (alloc, None)).collect();
    }
}

async fn forward(serving: Serving, alloc: AllocId, options: LogOptions, lines: mpsc::Sender<Line>) {
    let mut from = std::pin::pin!(read(&serving, &alloc, options));
    loop {
        tokio::select! {
            line = from.next() => match line {
                Some(line) => if lines.send(line).await.is_err() { return },
                None => return,
            },
            () = lines.closed() => return,
        }
    }
}

fn read(
    serving: &Serving,
    alloc: &AllocId,
    options: LogOptions,
) -> impl Stream<Item = Line> + use<> {
    let id = alloc.clone();
    let lines = serving.engine.logs(alloc.clone(), options);
    // A container that is gone has no output left here; its alloc's last lines are in `why`.
    lines.filter_map(async |line| line.ok()).map(move |line| Line { alloc: id.clone(), line })
}
