//! `mill dev`: a whole cluster in this process, for as long as a person watches it.
//!
//! The same daemon, API and deploy as in production, on a directory that goes away. Whatever
//! happens, its containers are removed at the end; those of one that was killed, by the next one.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use mill_core::api::Answer;
use mill_core::api::view::{RouteView, RoutesView, ServiceView, StatusView};
use mill_core::cluster::node::PortPool;
use mill_core::config::model::RouteMatch;
use mill_runtime_real::daemon::{Daemon, DaemonOptions, clear_left_behind as clear};
use mill_runtime_real::doctor::{self, Finding};
use mill_runtime_real::ingress::{self, IngressOptions};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::daemon::{Stop, log};
use super::{Outcome, config, deploy, done, logs, plan};
use crate::args::Dev;
use crate::client::Client;
use crate::failure::Failure;
use crate::render::progress::Waiting;
use crate::render::{self, counted, painted};

/// What is logged: what goes wrong, in Mill's words.
const LOG: &str = "warn,openraft=off,boringtun=off";
/// An answer that takes longer fails `--once`.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What its directories are called.
const PREFIX: &str = "mill-dev-";
/// Where such a directory says which engine its containers are on; empty for the usual one.
const ENGINE: &str = "engine";

/// `mill dev`.
pub async fn dev(args: Dev, json: bool) -> Outcome {
    if args.nodes != 1 {
        let message = "more than one node is not supported yet by this version; leave --nodes out";
        return Err(Failure::Usage(message.to_owned()));
    }
    let loaded = config::load(&args.files, json)?.supported(json)?;
    let engine = std::env::var("DOCKER_HOST").ok();
    if let Some(Finding { seen, remedy, .. }) = doctor::engine_is_missing(engine.clone()).await {
        return Err(Failure::Failed(format!("{seen}\n{}", remedy.unwrap_or_default())));
    }
    log(json, LOG);
    let mut stop = Stop::with_hangup()?;
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir();
    let folder = folder.map_err(|error| Failure::of(&error))?;
    fs::write(folder.path().join(ENGINE), engine.as_deref().unwrap_or_default())
        .map_err(|error| Failure::of(&error))?;
    tokio::select! {
        biased;
        () = stop.wait() => return interrupted(args.once),
        () = clear_left_behind(folder.path()) => {}
    }
    let block = PortBlock::take()?;
    let ingress_at = block.ingress();
    let socket = folder.path().join("mill.sock");
    let client = Client::new(&socket.display().to_string())?;
    let mut daemon = Daemon::start(DaemonOptions {
        data: folder.path().join("data"),
        name: Some("dev".to_owned()),
        advertise: "127.0.0.1".to_owned(),
        socket: socket.clone(),
        rpc: None,
        listen: None,
        engine,
        ports: block.pool,
        ingress: ingress_at.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
    .await
    .map_err(|error| Failure::of(&error))?;
    // Also a reader that goes away leaves nothing behind: its panic waits for the cleaning up.
    let showing = show((&client, &socket), &loaded, (args.once, json), &ingress_at);
    let showing = AssertUnwindSafe(showing).catch_unwind();
    let outcome = tokio::select! {
        biased;
        () = stop.wait() => Ok(interrupted(args.once)),
        shown = showing => shown,
        ended = daemon.ended() => {
            Ok(Err(Failure::Failed(format!("the daemon stopped: {ended}"))))
        }
    };
    if !json && outcome.is_ok() {
        println!("\nremoving what was started");
    }
    let turning = (!json && outcome.is_ok()).then(|| Waiting::on("containers are stopping"));
    let left = daemon.remove().await;
    drop(turning);
    let outcome = outcome.unwrap_or_else(|panic| resume_unwind(panic));
    match (outcome, left) {
        (outcome, Ok(())) => outcome,
        (Ok(_), Err(reason)) => {
            Err(Failure::Failed(format!("some containers could not be removed: {reason}")))
        }
        (Err(failure), Err(reason)) => {
            eprintln!("error: some containers could not be removed: {reason}");
            Err(failure)
        }
    }
}

/// Ports that no other `mill dev` on this machine gives to its containers, until this is dropped.
struct PortBlock {
    pool: PortPool,
    /// Listens on the block's last port, which says to the others that it is taken.
    _claim: TcpListener,
}

/// Where a person's own certificate authority is kept.
fn authority_folder() -> PathBuf {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    data.or_else(home).unwrap_or_else(std::env::temp_dir).join("mill")
}

/// Ports in a block, the one that claims it included.
const BLOCK_PORTS: u16 = 200;

impl PortBlock {
    fn take() -> Result<PortBlock, Failure> {
        let all = PortPool::default();
        for first in (all.first..all.last).step_by(usize::from(BLOCK_PORTS)) {
            let last = first + BLOCK_PORTS - 1;
            if let Ok(claim) = TcpListener::bind((Ipv4Addr::LOCALHOST, last)) {
                let pool = PortPool { first, last: last - 3 };
                return Ok(PortBlock { pool, _claim: claim });
            }
        }
        let message = "every block of ports from 20000 to 29999 is taken: are that many `mill dev` \
                       running here?";
        Err(Failure::Failed(message.to_owned()))
    }

    /// Two ports that come after those of containers.
    fn ingress(&self) -> IngressOptions {
        let at = |port| Some((Ipv4Addr::LOCALHOST, port).into());
        let last = self.pool.last;
        let authority = Some(authority_folder());
        IngressOptions { http: at(last + 1), https: at(last + 2), local: true, authority }
    }
}

/// Removes what was left by those that were killed, and says so. `ours` stays.
async fn clear_left_behind(ours: &Path) {
    let (Some(beside), Ok(meta)) = (ours.parent(), fs::metadata(ours)) else { return };
    let Ok(entries) = fs::read_dir(beside) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_named =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        // What others put there must not say which containers are removed.
        let is_ours = fs::symlink_metadata(&path)
            .is_ok_and(|found| found.is_dir() && found.uid() == meta.uid());
        if !is_named || !is_ours || path == ours {
            continue;
        }
        let engine = fs::read_to_string(path.join(ENGINE)).unwrap_or_default();
        let engine = Some(engine).filter(|engine| !engine.is_empty());
        let cleared = match clear(&path.join("data"), engine).await {
            Ok(false) => continue,
            Ok(true) => fs::remove_dir_all(&path).map_err(|error| error.to_string()),
            Err(reason) => Err(reason),
        };
        let path = path.display();
        match cleared {
            Ok(()) => eprintln!("removed {path} and its containers: a `mill dev` was killed there"),
            Err(reason) => eprintln!(
                "warning: a `mill dev` that was killed has left {path}, which cannot be removed \
                 with its containers just now: {reason}"
            ),
        }
    }
}

/// Ctrl-C is how watching ends, and not how a check succeeds.
fn interrupted(once: bool) -> Outcome {
    match once {
        true => Err(Failure::Failed("interrupted before everything answered".to_owned())),
        false => done(),
    }
}

/// Deploys, says where everything answers, and shows logs for as long as it is let.
async fn show(
    (client, socket): (&Client, &Path),
    loaded: &config::Loaded,
    (once, json): (bool, bool),
    at: &IngressOptions,
) -> Outcome {
    let project = &loaded.parsed.project;
    let plan = wait_for_plan(client, project).await?;
    if !json {
        print!("{plan}");
    }
    let Some(number) = deploy::start(client, project, &plan, false).await? else { return done() };
    let code = deploy::watch(client, number, json).await?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    let Answer::Status(status) = client.get("/v1/status").await? else { return done() };
    let Answer::Routes(routes) = client.get("/v1/routes").await? else { return done() };
    if !json {
        print_urls(&status);
        print_routes(&routes, at);
    }
    if once {
        return check(&status, json).await;
    }
    if !json {
        println!("\nother commands speak with this cluster, in another terminal, after");
        println!("  export MILL_ADDRESS={}", socket.display());
        println!("logs follow; Ctrl-C stops and removes everything\n");
    }
    logs::print(client, "/v1/logs?follow=true&tail=20", true, json).await
}

/// The first plan, once the node leads and has registered.
async fn wait_for_plan(
    client: &Client,
    project: &mill_core::config::model::Project,
) -> Result<mill_core::plan::Plan, Failure> {
    loop {
        let status = client.get("/v1/status").await;
        if let Ok(Answer::Status(view)) = status
            && view.nodes.iter().any(|node| node.up)
        {
            return plan::ask(client, project).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn print_urls(status: &StatusView) {
    println!();
    for service in &status.services {
        let endpoints = service.endpoints.iter().map(|endpoint| format!("http://{endpoint}"));
        let endpoints: Vec<String> = endpoints.collect();
        let shown = match endpoints.is_empty() {
            true => format!("{}, no port", counted(service.healthy as usize, "replica")),
            false => endpoints.join("  "),
        };
        println!("{} {shown}", painted(&format!("{:<12}", service.name), render::GREEN));
    }
}

/// Where each route is answered on this machine: below `.localhost`, which browsers resolve to it.
fn print_routes(view: &RoutesView, at: &IngressOptions) {
    for RouteView { service, route, .. } in &view.routes {
        let shown = match &route.accept {
            RouteMatch::Tcp { listen, .. } => format!("127.0.0.1:{listen}"),
            RouteMatch::Http { host, path } => {
                let (scheme, address) = match route.tls {
                    true => ("https", at.https),
                    false => ("http", at.http),
                };
                let Some(port) = address.map(|address| address.port()) else { continue };
                let host = host.strip_suffix(".localhost").unwrap_or(host);
                let host = if host == "localhost" { "" } else { host };
                let dot = if host.is_empty() { "" } else { "." };
                format!("{scheme}://{host}{dot}localhost:{port}{path}")
            }
        };
        println!("{} {shown}", painted(&format!("{:<12}", service.as_str()), render::GREEN));
    }
    if let (true, Some(folder)) = (view.routes.iter().any(|r| r.route.tls), &at.authority) {
        let certificate = ingress::local_authority(folder);
        println!("{:<12} trust {} once, for https", "", certificate.display());
    }
    for why in view.unrouted.values() {
        println!("not every route is served: {why}");
    }
}

/// Asks every endpoint once.
async fn check(status: &StatusView, json: bool) -> Outcome {
    if !json {
        println!();
    }
    let mut answers = Vec::new();
    for service in &status.services {
        if service.healthy < service.wanted {
            let ServiceView { name, healthy, wanted, .. } = service;
            return Err(Failure::Failed(format!("{name}: {healthy} of {wanted} are healthy")));
        }
        for endpoint in &service.endpoints {
            let answer = timeout(ANSWER_WITHIN, ask(endpoint)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer in {ANSWER_WITHIN:?}")));
            match answer {
                Ok(line) if json => answers
                    .push(json!({ "service": service.name, "endpoint": endpoint, "answer": line })),
                Ok(line) => println!("{} at {endpoint} answered: {line}", service.name),
                Err(error) => {
                    let name = &service.name;
                    return Err(Failure::Failed(format!("{name} at {endpoint}: {error}")));
                }
            }
        }
    }
    match json {
        true => println!("{}", json!({ "answers": answers })),
        false => println!("{}", painted("everything answers", render::GREEN)),
    }
    done()
}

/// The first line of what an endpoint answers. Whatever speaks something else than HTTP, or refuses
/// a question that nobody prepared it for, answers as well.
async fn ask(endpoint: &str) -> Result<String, String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let stream = TcpStream::connect(endpoint).await.map_err(|error| words(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| words(&error))?;
    tokio::spawn(connection);
    let request = hyper::Request::get("/").header("host", endpoint).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| words(&error))?;
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) if error.is_parse() => return Ok("something that is not HTTP".to_owned()),
        Err(error) => return Err(words(&error)),
    };
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| words(&error))?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
    match status {
        _ if status.is_success() => Ok(line),
        _ if status.is_server_error() => Err(format!("it answered {status}: {line}")),
        _ => Ok(status.to_string()),
    }
}
