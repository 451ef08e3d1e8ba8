//! `GET /v1/logs`: the output of allocs as server-sent events, merged in time order.
//!
//! What was written before comes sorted; with `follow`, what is written from then on comes as it
//! is written: also of allocs that are placed later, of containers that are started again, and
//! across engines that go away for a while. Each line comes once. What keeps output from being
//! read is told in its place, as `{"error": ...}`.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use mill_core::api::view::AllocView;
use mill_core::api::{Answer, ApiError, ErrorCode, Request};
use mill_core::container::{OpError, OpErrorKind};
use mill_core::name::AllocId;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::Duration;

use super::{Serving, refusal};
use crate::clock;
use crate::docker::{LogLine, LogOptions};

/// The most lines of each alloc that can be asked for.
pub const LINES_MAX: u32 = 100_000;
/// Lines of each alloc that a request is given that does not say how many.
const LINES_DEFAULT: u32 = 100;
/// How often a follower looks for allocs that were placed since, and at a container that ended.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
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
#[serde(untagged)]
enum Sent {
    Line {
        alloc: AllocId,
        #[serde(flatten)]
        line: LogLine,
    },
    Trouble {
        alloc: AllocId,
        /// Why its output cannot be read just now.
        error: String,
    },
}

/// An alloc that the query names.
struct Named {
    id: AllocId,
    has_ended: bool,
}

/// Up to where the output of an alloc was sent.
#[derive(Clone, Copy)]
struct Place {
    /// When the last line was written; nothing that is older is sent.
    at: u64,
    /// Lines of that very millisecond that were sent.
    sent: u64,
}

impl Place {
    fn pass(&mut self, at: u64) {
        if at > self.at {
            *self = Place { at, sent: 0 };
        }
        self.sent += 1;
    }
}

pub(super) fn router() -> Router<Serving> {
    Router::new().route("/v1/logs", get(logs))
}

async fn logs(State(serving): State<Serving>, Query(query): Query<LogsQuery>) -> Response {
    if query.tail.is_some_and(|lines| lines > LINES_MAX) {
        let message = format!("at most {LINES_MAX} lines of each alloc can be asked for");
        let error = ApiError::new(ErrorCode::Invalid, message);
        return refusal(error.hint("ask for fewer, or follow from now on"));
    }
    let allocs = match matching(&serving, &query).await {
        Ok(allocs) => allocs,
        Err(error) => return refusal(error),
    };
    let (lines, receiver) = mpsc::channel(LINES_WAITING);
    tokio::spawn(send_logs(serving, query, allocs, lines));
    let events = stream::unfold(receiver, async |mut receiver| {
        let sent: Sent = receiver.recv().await?;
        Some((event(&sent), receiver))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

fn event(sent: &Sent) -> Result<Event, Infallible> {
    Ok(Event::default().json_data(sent).expect("a line has text keys only"))
}

/// Allocs that the query names.
async fn matching(serving: &Serving, query: &LogsQuery) -> Result<Vec<Named>, ApiError> {
    let answer = serving.handle.ask(Request::Allocs { service: None, stale: false }).await?;
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
    Ok(wanted.map(|view| Named { has_ended: view.phase.is_end(), id: view.id }).collect())
}

async fn send_logs(
    serving: Serving,
    query: LogsQuery,
    allocs: Vec<Named>,
    lines: mpsc::Sender<Sent>,
) {
    // What is written from now on is a follower's.
    let begun = Place { at: clock::wall().0, sent: 0 };
    let Some(places) = send_past(&serving, &query, &allocs, &lines).await else { return };
    if query.follow {
        follow(serving, query, begun, places, lines).await;
    }
}

/// Sends what was written before, merged in time order: one line of each alloc is held at a time.
/// Says up to where; `None` if nobody reads any more.
async fn send_past(
    serving: &Serving,
    query: &LogsQuery,
    allocs: &[Named],
    lines: &mpsc::Sender<Sent>,
) -> Option<BTreeMap<AllocId, Place>> {
    let tail = query.tail.unwrap_or(LINES_DEFAULT);
    let options = LogOptions { follow: false, tail: Some(tail), since: query.since };
    let mut sources: Vec<Past> =
        allocs.iter().map(|alloc| Past::of(serving, &alloc.id, options.clone())).collect();
    for source in &mut sources {
        source.advance(lines).await;
    }
    loop {
        let next = sources.iter_mut().filter(|source| source.head.is_some());
        let next = next.min_by_key(|source| source.head.as_ref().map(|line| line.at));
        let Some(source) = next else { break };
        if let Some(line) = source.head.take() {
            source.place.get_or_insert(Place { at: line.at, sent: 0 }).pass(line.at);
            source.count += 1;
            lines.send(Sent::Line { alloc: source.alloc.clone(), line }).await.ok()?;
        }
        source.advance(lines).await;
    }
    let places = sources.into_iter().filter_map(|source| {
        let mut place = source.place?;
        if place.sent == u64::from(tail) && source.count == place.sent {
            // More than was asked for is of this millisecond: how much more is not known.
            place = Place { at: place.at + 1, sent: 0 };
        }
        Some((source.alloc, place))
    });
    Some(places.collect())
}

/// The output of an alloc until now.
struct Past {
    alloc: AllocId,
    from: BoxStream<'static, Result<LogLine, OpError>>,
    head: Option<LogLine>,
    place: Option<Place>,
    count: u64,
}

impl Past {
    fn of(serving: &Serving, alloc: &AllocId, options: LogOptions) -> Past {
        let from = serving.engine.logs(alloc.clone(), options).boxed();
        Past { alloc: alloc.clone(), from, head: None, place: None, count: 0 }
    }

    async fn advance(&mut self, lines: &mpsc::Sender<Sent>) {
        self.head = match self.from.next().await {
            Some(Ok(line)) => Some(line),
            Some(Err(error)) => {
                tell(&self.alloc, error, lines).await;
                None
            }
            None => None,
        };
    }
}

/// Tells why an alloc cannot be read, unless its container is just not there: its last lines are
/// in `why` then.
async fn tell(alloc: &AllocId, error: OpError, lines: &mpsc::Sender<Sent>) {
    if error.kind != OpErrorKind::Gone {
        // Who does not read any more is noticed with the next line.
        let _ = lines.send(Sent::Trouble { alloc: alloc.clone(), error: error.detail }).await;
    }
}

/// Follows every alloc from its place on, and those that come later from their beginning.
async fn follow(
    serving: Serving,
    query: LogsQuery,
    begun: Place,
    places: BTreeMap<AllocId, Place>,
    lines: mpsc::Sender<Sent>,
) {
    let (live, watched) = watch::channel(BTreeSet::new());
    let mut known: BTreeSet<AllocId> = BTreeSet::new();
    while !lines.is_closed() {
        let found = match matching(&serving, &query).await {
            Ok(found) => Some(found),
            // None of them is there any more; others may come.
            Err(error) if error.code == ErrorCode::NotFound => Some(Vec::new()),
            Err(_) => None,
        };
        if let Some(found) = found {
            let running = found.iter().filter(|alloc| !alloc.has_ended);
            live.send_replace(running.map(|alloc| alloc.id.clone()).collect());
            for Named { id, .. } in found {
                if known.insert(id.clone()) {
                    let place = places.get(&id).copied().unwrap_or(begun);
                    let follower = Follower { alloc: id, place, has_told: false };
                    tokio::spawn(follower.run(serving.clone(), watched.clone(), lines.clone()));
                }
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Follows one alloc through the lives of its container and of the engine.
struct Follower {
    alloc: AllocId,
    place: Place,
    /// Whether it was told why there is nothing to read, since there last was.
    has_told: bool,
}

impl Follower {
    async fn run(
        mut self,
        serving: Serving,
        live: watch::Receiver<BTreeSet<AllocId>>,
        lines: mpsc::Sender<Sent>,
    ) {
        loop {
            let is_live = live.borrow().contains(&self.alloc);
            tokio::select! {
                () = self.life(&serving, &lines) => {}
                () = lines.closed() => return,
            }
            if !is_live {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Reads on until the container ends, or the engine.
    async fn life(&mut self, serving: &Serving, lines: &mpsc::Sender<Sent>) {
        let from = self.place;
        let mut again = from.sent;
        let options = LogOptions { follow: true, tail: None, since: Some(from.at) };
        let mut read = serving.engine.logs(self.alloc.clone(), options).boxed();
        while let Some(line) = read.next().await {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    if !std::mem::replace(&mut self.has_told, true) {
                        tell(&self.alloc, error, lines).await;
                    }
                    return;
                }
            };
            self.has_told = false;
            if line.at == from.at && again > 0 {
                again -= 1;
                continue;
            }
            self.place.pass(line.at);
            if lines.send(Sent::Line { alloc: self.alloc.clone(), line }).await.is_err() {
                return;
            }
        }
    }
}
