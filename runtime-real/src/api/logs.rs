//! `GET /v1/logs`: the output of allocs of all nodes as server-sent events, merged in time order.
//! What keeps output from being read is told in its place, as `{"error": ...}`. How it is read is
//! [`crate::streams`]'s.

use std::convert::Infallible;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::stream;
use mill_core::api::{ApiError, ErrorCode};
use serde::Deserialize;

use super::{Serving, refusal};
use crate::streams::{LogsWish, Told};

/// The most lines of each alloc that can be asked for.
pub const LINES_MAX: u32 = 100_000;
/// Lines of each alloc that a request is given that does not say how many.
const LINES_DEFAULT: u32 = 100;

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

pub(super) fn router() -> Router<Serving> {
    Router::new().route("/v1/logs", get(logs))
}

async fn logs(State(serving): State<Serving>, Query(query): Query<LogsQuery>) -> Response {
    if query.tail.is_some_and(|lines| lines > LINES_MAX) {
        let message = format!("at most {LINES_MAX} lines of each alloc can be asked for");
        let error = ApiError::new(ErrorCode::Invalid, message);
        return refusal(error.hint("ask for fewer, or follow from now on"));
    }
    let names = query.names.iter().flat_map(|names| names.split(','));
    let wish = LogsWish {
        names: names.map(str::to_owned).collect(),
        tail: query.tail.unwrap_or(LINES_DEFAULT),
        follow: query.follow,
        since: query.since,
        all: query.all,
    };
    let told = match serving.streams.logs(wish).await {
        Ok(told) => told,
        Err(error) => return refusal(error),
    };
    let events = stream::unfold(told, async |mut told| {
        let next = told.recv().await?;
        Some((event(&next), told))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

fn event(told: &Told) -> Result<Event, Infallible> {
    Ok(Event::default().json_data(told).expect("a line has text keys only"))
}
