//! Paths, and the request of core that each stands for.

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use mill_core::api::{Answer, ApiError, ErrorCode, Request};
use mill_core::cluster::task::Overrides;
use mill_core::config::model::Project;
use mill_core::name::Name;
use mill_core::units::Millis;
use serde::Deserialize;
use serde_json::json;

use super::{Serving, refusal};

pub(super) fn router() -> Router<Serving> {
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/allocs", get(allocs))
        .route("/v1/why/{subject}", get(why))
        .route("/v1/events", get(events))
        .route("/v1/state", get(state))
        .route("/v1/routes", get(routes))
        .route("/v1/plan", post(plan))
        .route("/v1/deploys", post(deploy).get(deploys))
        .route("/v1/deploys/{number}", get(deployment))
        .route("/v1/deploys/{number}/cancel", post(cancel))
        .route("/v1/deploys/{number}/promote", post(promote))
        .route("/v1/rollback", post(rollback))
        .route("/v1/tasks/{name}/runs", post(run))
        .route("/v1/runs", get(runs))
        .route("/v1/runs/{number}", get(run_state))
        .route("/v1/runs/{number}/kill", post(kill))
        .route("/v1/services/{name}/restart", post(restart))
        .route("/v1/services/{name}/scale", post(scale))
}

async fn version(State(serving): State<Serving>) -> Response {
    Json(json!({ "version": serving.version, "core": mill_core::recording::CORE_VERSION }))
        .into_response()
}

#[derive(Deserialize)]
pub(super) struct StaleQuery {
    /// Whether this node's own copy will do.
    #[serde(default)]
    pub(super) stale: bool,
}

async fn status(State(serving): State<Serving>, Query(query): Query<StaleQuery>) -> Response {
    ask(&serving, Request::Status { stale: query.stale }).await
}

#[derive(Deserialize)]
struct AllocsQuery {
    service: Option<Name>,
    /// Whether this node's own copy will do.
    #[serde(default)]
    stale: bool,
}

async fn allocs(State(serving): State<Serving>, Query(query): Query<AllocsQuery>) -> Response {
    ask(&serving, Request::Allocs { service: query.service, stale: query.stale }).await
}

async fn why(
    State(serving): State<Serving>,
    Path(subject): Path<String>,
    Query(query): Query<StaleQuery>,
) -> Response {
    ask(&serving, Request::Why { subject, stale: query.stale }).await
}

#[derive(Deserialize)]
struct EventsQuery {
    /// Only what came after this number.
    after: Option<u64>,
    /// Milliseconds.
    hold: Option<u64>,
    /// Whether this node's own copy will do.
    #[serde(default)]
    stale: bool,
}

async fn events(State(serving): State<Serving>, Query(query): Query<EventsQuery>) -> Response {
    let EventsQuery { after, hold, stale } = query;
    ask(&serving, Request::Events { after, hold: Millis(hold.unwrap_or(0)), stale }).await
}

async fn state(State(serving): State<Serving>) -> Response {
    ask(&serving, Request::State).await
}

async fn routes(State(serving): State<Serving>, Query(query): Query<StaleQuery>) -> Response {
    ask(&serving, Request::Routes { stale: query.stale }).await
}

async fn plan(State(serving): State<Serving>, Json(project): Json<Project>) -> Response {
    ask(&serving, Request::Plan { project: Box::new(project) }).await
}

#[derive(Deserialize)]
struct DeployBody {
    project: Project,
    expect: Option<String>,
    /// Whether a service that fails goes back by itself, and the others go on.
    #[serde(default)]
    keep_going: bool,
}

async fn deploy(State(serving): State<Serving>, Json(body): Json<DeployBody>) -> Response {
    let DeployBody { project, expect, keep_going } = body;
    let project = Box::new(project);
    ask(&serving, Request::Deploy { project, expect, keep_going }).await
}

#[derive(Deserialize)]
struct DeploymentQuery {
    seen: Option<u64>,
    /// Milliseconds.
    hold: Option<u64>,
}

async fn deployment(
    State(serving): State<Serving>,
    Path(number): Path<String>,
    Query(query): Query<DeploymentQuery>,
) -> Response {
    let number = match which(&number) {
        Ok(number) => number,
        Err(error) => return refusal(error),
    };
    let hold = Millis(query.hold.unwrap_or(0));
    ask(&serving, Request::Deployment { number, seen: query.seen, hold }).await
}

/// A deploy's number; `None` for the latest.
fn which(text: &str) -> Result<Option<u64>, ApiError> {
    if text == "latest" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let message = format!("`{text}` is not a deploy's number, nor `latest`");
        ApiError::new(ErrorCode::Invalid, message)
    })
}

async fn deploys(State(serving): State<Serving>, Query(query): Query<StaleQuery>) -> Response {
    ask(&serving, Request::Deploys { stale: query.stale }).await
}

async fn cancel(State(serving): State<Serving>, Path(number): Path<String>) -> Response {
    match which(&number) {
        Ok(number) => ask(&serving, Request::Cancel { number }).await,
        Err(error) => refusal(error),
    }
}

#[derive(Deserialize)]
struct PromoteBody {
    /// All that wait for canaries if empty.
    #[serde(default)]
    services: Vec<Name>,
}

async fn promote(
    State(serving): State<Serving>,
    Path(number): Path<String>,
    Json(body): Json<PromoteBody>,
) -> Response {
    match which(&number) {
        Ok(number) => ask(&serving, Request::Promote { number, services: body.services }).await,
        Err(error) => refusal(error),
    }
}

#[derive(Deserialize)]
struct RollbackBody {
    project: Option<Name>,
    to: Option<u64>,
    expect: Option<String>,
}

async fn rollback(State(serving): State<Serving>, Json(body): Json<RollbackBody>) -> Response {
    let RollbackBody { project, to, expect } = body;
    ask(&serving, Request::Rollback { project, to, expect }).await
}

async fn run(
    State(serving): State<Serving>,
    Path(task): Path<Name>,
    Json(overrides): Json<Overrides>,
) -> Response {
    ask(&serving, Request::Run { task, overrides: Box::new(overrides) }).await
}

#[derive(Deserialize)]
struct RunsQuery {
    task: Option<Name>,
    /// Whether this node's own copy will do.
    #[serde(default)]
    stale: bool,
}

async fn runs(State(serving): State<Serving>, Query(query): Query<RunsQuery>) -> Response {
    ask(&serving, Request::Runs { task: query.task, stale: query.stale }).await
}

async fn run_state(
    State(serving): State<Serving>,
    Path(number): Path<u64>,
    Query(query): Query<DeploymentQuery>,
) -> Response {
    let hold = Millis(query.hold.unwrap_or(0));
    ask(&serving, Request::RunState { number, seen: query.seen, hold }).await
}

async fn kill(State(serving): State<Serving>, Path(number): Path<u64>) -> Response {
    ask(&serving, Request::Kill { number }).await
}

async fn restart(State(serving): State<Serving>, Path(service): Path<Name>) -> Response {
    ask(&serving, Request::Restart { service }).await
}

#[derive(Deserialize)]
struct ScaleBody {
    replicas: u32,
}

async fn scale(
    State(serving): State<Serving>,
    Path(service): Path<Name>,
    Json(body): Json<ScaleBody>,
) -> Response {
    ask(&serving, Request::Scale { service, replicas: body.replicas }).await
}

pub(super) async fn ask(serving: &Serving, request: Request) -> Response {
    match serving.handle.ask(request).await {
        Ok(Answer::State(text)) => {
            ([(axum::http::header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Ok(answer) => Json(answer).into_response(),
        Err(error) => refusal(error),
    }
}
