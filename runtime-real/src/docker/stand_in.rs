//! An engine that is a test's: it answers as that wants, also in ways that are hard to get from a
//! real one. One running container is there, whatever it is called.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use mill_core::container::label;
use mill_core::name::NodeId;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;

use super::{Engine, EngineOptions};

/// What it does when it is asked.
pub(crate) enum Says {
    /// Answers.
    Json(u16, Value),
    /// Closes the connection.
    Nothing,
    /// Keeps whoever asked waiting.
    Never,
    /// Hands the connection over, writes each of these and closes it.
    Carries(Vec<Vec<u8>>),
}

/// An engine, and the directory of its socket.
pub(crate) fn engine(
    says: impl Fn(&str) -> Option<Says> + Send + Sync + 'static,
) -> (Engine, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let says = Arc::new(says);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let says = says.clone();
            let service = service_fn(move |request| answer(request, says.clone()));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving.with_upgrades());
        }
    });
    let options = EngineOptions {
        host: Some(format!("unix://{}", socket.display())),
        cluster: "c1".to_owned(),
        node: NodeId(1),
        config: None,
        pulled: None,
    };
    (Engine::connect(options).unwrap(), dir)
}

/// What is not the test's matter is said as engines do.
fn usual(path: &str) -> Says {
    match path {
        "/version" => Says::Json(200, json!({ "ApiVersion": "1.44", "MinAPIVersion": "1.24" })),
        path if path.starts_with("/containers/") && path.ends_with("/exec") => {
            Says::Json(201, json!({ "Id": "e1" }))
        }
        path if path.starts_with("/containers/") && path.ends_with("/json") => {
            let labels =
                json!({ label::CLUSTER: "c1", label::NODE: "n1", label::ALLOC: "web.0-a" });
            let state = json!({ "Status": "running" });
            Says::Json(200, json!({ "Config": { "Labels": labels }, "State": state }))
        }
        path => Says::Json(404, json!({ "message": format!("nothing is at {path}") })),
    }
}

async fn answer(
    request: Request<Incoming>,
    says: Arc<impl Fn(&str) -> Option<Says>>,
) -> io::Result<Response<Full<Bytes>>> {
    let path = request.uri().path();
    // The version of the API that is spoken.
    let path = match path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/')) {
        Some((_, path)) => format!("/{path}"),
        None => path.to_owned(),
    };
    let (status, body) = match says(&path).unwrap_or_else(|| usual(&path)) {
        Says::Json(status, value) => (StatusCode::from_u16(status).unwrap(), value.to_string()),
        Says::Nothing => return Err(io::Error::other("it closes the connection")),
        Says::Never => match std::future::pending::<Infallible>().await {},
        Says::Carries(pieces) => {
            tokio::spawn(async move {
                let mut socket = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                for piece in pieces {
                    socket.write_all(&piece).await.unwrap();
                    socket.flush().await.unwrap();
                }
                socket.shutdown().await.unwrap();
            });
            (StatusCode::SWITCHING_PROTOCOLS, String::new())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let headers = response.headers_mut();
        headers.insert(hyper::header::CONNECTION, "Upgrade".parse().unwrap());
        headers.insert(hyper::header::UPGRADE, "tcp".parse().unwrap());
    } else {
        let kind = "application/json".parse().unwrap();
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    }
    Ok(response)
}
