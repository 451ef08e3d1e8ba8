//! `GET /v1/stream`: the connection becomes a stream of frames, as [`crate::streams`] has them; the
//! first one says what is asked for.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use mill_core::api::{ApiError, ErrorCode};

use super::{Serving, refusal};
use crate::streams::PROTOCOL;
use crate::streams::frame::over_socket;

pub(super) fn router() -> Router<Serving> {
    Router::new().route("/v1/stream", get(stream))
}

async fn stream(State(serving): State<Serving>, request: Request) -> Response {
    if request.headers().get(UPGRADE).is_none_or(|protocol| protocol != PROTOCOL) {
        let message = format!("this is for streams: ask with `Upgrade: {PROTOCOL}`");
        return refusal(ApiError::new(ErrorCode::Invalid, message));
    }
    let place = match serving.streams.place() {
        Ok(place) => place,
        Err(error) => return refusal(error),
    };
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let _place = place;
        let ended = match upgrading.await {
            Ok(socket) => {
                let (sender, receiver) = over_socket(TokioIo::new(socket));
                serving.streams.serve(sender, receiver).await
            }
            Err(error) => Err(std::io::Error::other(error)),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a client's stream ended");
        }
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}
