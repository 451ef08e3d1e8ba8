//! The path of backups: the replicated state of now, with what a primary seals.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use mill_core::api::{Answer, ApiError, ErrorCode, Request};
use mill_core::cluster::Cluster;

use super::{Serving, refusal};

pub(super) fn router() -> Router<Serving> {
    Router::new().route("/v1/backup", get(backup))
}

async fn backup(State(serving): State<Serving>) -> Response {
    let Some(sealing) = &serving.sealing else {
        let message = "this node is no primary, so it has no authority to seal into a backup";
        return refusal(ApiError::new(ErrorCode::Conflict, message).hint("ask a primary"));
    };
    let internal = |text: String| refusal(ApiError::new(ErrorCode::Internal, text));
    let state = match serving.handle.ask(Request::State).await {
        Ok(Answer::State(state)) => state,
        Ok(other) => return internal(format!("the node answered something else: {other:?}")),
        Err(error) => return refusal(error),
    };
    let revision = match Cluster::decode(state.as_bytes()) {
        Ok(cluster) => cluster.revision,
        Err(error) => return internal(error.to_string()),
    };
    match sealing.backup(revision, state) {
        Ok(text) => {
            ([(axum::http::header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Err(error) => refusal(ApiError::new(ErrorCode::Conflict, error.to_string())),
    }
}
