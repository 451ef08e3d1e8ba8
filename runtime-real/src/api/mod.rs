//! The API's transport: HTTP/JSON under `/v1`, on a unix socket for local root and on TCP behind a
//! bearer token. It translates; what is answered is core's.

mod backup;
mod certificates;
mod logs;
mod nodes;
mod routes;
mod streams;
mod tcp;

use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

pub use self::logs::LINES_MAX;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use mill_core::api::{ApiError, ErrorCode};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use crate::backup::Sealing;
use crate::daemon::{Handle, StartError};
use crate::identity::token_hash;
use crate::ingress::Front;
use crate::mesh::Meshing;
use crate::streams::Streams;
use crate::traffic::Carried;
use crate::vault::Vault;

/// What the API needs.
#[derive(Clone)]
pub(crate) struct Serving {
    pub handle: Handle,
    pub streams: Streams,
    pub token_hash: String,
    pub version: String,
    /// What backups are made with, on primaries.
    pub sealing: Option<Arc<Sealing>>,
    /// Where other machines join, and the fingerprint of the authority that their token carries.
    pub inviting: Option<(String, String)>,
    /// Seals what people bring.
    pub vault: Vault,
    /// This node's part of the mesh.
    pub meshing: Meshing,
    /// What it carries to services, and takes from outside.
    pub carried: Carried,
    pub front: Front,
}

/// Serves on a unix socket that only root can use.
pub(crate) fn serve_unix(path: &Path, serving: Serving) -> Result<JoinHandle<()>, StartError> {
    let refused = |source| StartError::Listen { address: path.display().to_string(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(refused)?;
    }
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(StartError::NotASocket { path: path.to_path_buf() });
        }
        // A socket that nobody answers on is what a killed daemon left.
        if std::os::unix::net::UnixStream::connect(path).is_err() {
            std::fs::remove_file(path).map_err(refused)?;
        }
    }
    let listener = UnixListener::bind(path).map_err(refused)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(refused)?;
    Ok(spawn(async move { axum::serve(listener, router(serving)).await }))
}

/// Serves on TCP; every request must carry the token.
pub(crate) async fn serve_tcp(
    address: &str,
    serving: Serving,
) -> Result<JoinHandle<()>, StartError> {
    let refused = |source| StartError::Listen { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let checked = middleware::from_fn_with_state(serving.clone(), authenticate);
    let router = router(serving).layer(checked);
    Ok(tokio::spawn(tcp::serve(listener, router, tcp::Limits::default())))
}

fn spawn(serving: impl Future<Output = std::io::Result<()>> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the API stopped serving");
        }
    })
}

fn router(serving: Serving) -> Router {
    let paths = routes::router()
        .merge(nodes::router())
        .merge(backup::router())
        .merge(certificates::router())
        .merge(logs::router())
        .merge(streams::router());
    paths.fallback(not_found).with_state(serving)
}

async fn not_found() -> Response {
    refusal(ApiError::new(ErrorCode::NotFound, "there is no such path in this API"))
}

async fn authenticate(State(serving): State<Serving>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    let token = header.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    // Hashes of 256 random bits are compared: how long that takes tells nothing of the token.
    match token {
        Some(token) if token_hash(token) == serving.token_hash => next.run(request).await,
        Some(_) | None => {
            let message = "this needs the API token as `Authorization: Bearer TOKEN`";
            let error = ApiError::new(ErrorCode::Forbidden, message);
            let hint =
                "set MILL_TOKEN to the token that `mill init` printed, or use the unix socket";
            refusal(error.hint(hint))
        }
    }
}

fn refusal(error: ApiError) -> Response {
    let status = match error.code {
        ErrorCode::Invalid | ErrorCode::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Forbidden => StatusCode::UNAUTHORIZED,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict | ErrorCode::PlanChanged => StatusCode::CONFLICT,
        ErrorCode::NoLeader | ErrorCode::Unknown | ErrorCode::Busy => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, axum::Json(error)).into_response()
}
