//! Paths of certificates. Keys that people bring are sealed here, and go no further as they are.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use mill_core::api::{ApiError, ErrorCode, Request};
use mill_core::cluster::certificates::{Imported, Issued};
use mill_core::time::Wall;
use serde::Deserialize;

use super::routes::{StaleQuery, ask};
use super::{Serving, refusal};
use crate::clock;
use crate::vault::Purpose;

pub(super) fn router() -> Router<Serving> {
    Router::new()
        .route("/v1/certificates", get(certificates).post(import))
        .route("/v1/certificates/{name}/remove", post(remove))
        .route("/v1/certificates/{name}/renew", post(renew))
}

async fn certificates(State(serving): State<Serving>, Query(query): Query<StaleQuery>) -> Response {
    ask(&serving, Request::Certificates { stale: query.stale }).await
}

#[derive(Deserialize)]
struct ImportBody {
    /// The certificate and those above it, in PEM.
    chain: String,
    /// Its key, in PEM.
    key: String,
    #[serde(default)]
    default: bool,
}

async fn import(State(serving): State<Serving>, Json(body): Json<ImportBody>) -> Response {
    match sealed(&serving, body) {
        Ok(imported) => ask(&serving, Request::ImportCertificate(Box::new(imported))).await,
        Err(error) => refusal(error),
    }
}

fn sealed(serving: &Serving, body: ImportBody) -> Result<Imported, ApiError> {
    let ImportBody { chain, key, default } = body;
    let invalid = |error: mill_acme::ImportError| {
        ApiError::new(ErrorCode::Invalid, format!("this certificate cannot be used: {error}"))
    };
    let read = mill_acme::inspect(&chain, Some(&key)).map_err(invalid)?;
    let now = clock::wall();
    if read.not_after_ms <= now.0 {
        let message = "this certificate has ended already";
        return Err(ApiError::new(ErrorCode::Invalid, message).hint("import the one after it"));
    }
    let key = serving.vault.seal(Purpose::CertificateKey, &key);
    let key = key.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    let (not_before, not_after) = (Wall(read.not_before_ms), Wall(read.not_after_ms));
    let directory = None;
    let issued = Arc::new(Issued { chain, key, not_before, not_after, at: now, directory });
    Ok(Imported { names: read.names, issued, default })
}

async fn remove(State(serving): State<Serving>, Path(name): Path<String>) -> Response {
    ask(&serving, Request::RemoveCertificate { name }).await
}

async fn renew(State(serving): State<Serving>, Path(name): Path<String>) -> Response {
    ask(&serving, Request::RenewCertificate { name }).await
}
