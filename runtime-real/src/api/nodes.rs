//! Paths of nodes and join tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use mill_core::api::{ApiError, ErrorCode, Request};
use mill_core::cluster::admission::Roles;
use mill_core::units::Millis;
use serde::Deserialize;
use serde_json::json;

use super::routes::{StaleQuery, ask};
use super::{Serving, refusal};
use crate::daemon::{TokenWish, create_token};
use crate::metrics::{self, Counts};

pub(super) fn router() -> Router<Serving> {
    Router::new()
        .route("/v1/nodes/{node}", get(node))
        .route("/v1/nodes/{node}/drain", post(drain))
        .route("/v1/nodes/{node}/labels", post(label))
        .route("/v1/nodes/{node}/remove", post(remove))
        .route("/v1/nodes/{node}/rotate-key", post(rotate_key))
        .route("/v1/mesh", get(mesh))
        .route("/v1/names", get(names))
        .route("/v1/metrics", get(counted))
        .route("/v1/tokens", post(token))
        .route("/v1/tokens/revoke", post(revoke))
}

async fn node(
    State(serving): State<Serving>,
    Path(node): Path<String>,
    Query(query): Query<StaleQuery>,
) -> Response {
    ask(&serving, Request::Node { node, stale: query.stale }).await
}

/// The mesh as this very node sees it.
async fn mesh(State(serving): State<Serving>) -> Response {
    Json(serving.meshing.report()).into_response()
}

/// Names as this very node's containers find them.
async fn names(State(serving): State<Serving>) -> Response {
    Json(serving.carried.names().await).into_response()
}

/// What this very node counts, for Prometheus.
async fn counted(State(serving): State<Serving>) -> Response {
    let counts = Counts {
        forwarders: serving.carried.counted(),
        names: serving.carried.asked(),
        ingress: serving.front.counted(),
        mesh: serving.meshing.report(),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::text(&counts)).into_response()
}

async fn rotate_key(State(serving): State<Serving>, Path(node): Path<String>) -> Response {
    ask(&serving, Request::RotateKey { node }).await
}

#[derive(Deserialize)]
struct DrainBody {
    on: bool,
}

async fn drain(
    State(serving): State<Serving>,
    Path(node): Path<String>,
    Json(body): Json<DrainBody>,
) -> Response {
    ask(&serving, Request::Drain { node, on: body.on }).await
}

#[derive(Deserialize)]
struct LabelBody {
    #[serde(default)]
    set: BTreeMap<String, String>,
    #[serde(default)]
    remove: Vec<String>,
}

async fn label(
    State(serving): State<Serving>,
    Path(node): Path<String>,
    Json(body): Json<LabelBody>,
) -> Response {
    ask(&serving, Request::Label { node, set: body.set, remove: body.remove }).await
}

#[derive(Deserialize)]
struct RemoveBody {
    #[serde(default)]
    force: bool,
}

async fn remove(
    State(serving): State<Serving>,
    Path(node): Path<String>,
    Json(body): Json<RemoveBody>,
) -> Response {
    ask(&serving, Request::RemoveNode { node, force: body.force }).await
}

#[derive(Deserialize)]
struct TokenBody {
    #[serde(default)]
    roles: Roles,
    /// Milliseconds; for ever if absent.
    lasts: Option<Millis>,
    #[serde(default)]
    once: bool,
}

/// The secret leaves the daemon here, and is kept nowhere.
async fn token(State(serving): State<Serving>, Json(body): Json<TokenBody>) -> Response {
    let Some((address, authority)) = &serving.inviting else {
        let message = "this node serves no others, so nobody can join";
        let error = ApiError::new(ErrorCode::Conflict, message);
        return refusal(error.hint("ask a node that was started with --rpc"));
    };
    let TokenBody { roles, lasts, once } = body;
    let lasts = lasts.map(|Millis(lasts)| Duration::from_millis(lasts));
    match create_token(&serving.handle, authority, TokenWish { roles, lasts, once }).await {
        Ok(token) => Json(json!({ "token": token.reveal(), "address": address })).into_response(),
        Err(error) => refusal(error),
    }
}

async fn revoke(State(serving): State<Serving>) -> Response {
    ask(&serving, Request::RevokeTokens).await
}
