//! The production runtime of a node: opens what it needs, then turns events into effects' results.
//!
//! It decides nothing: `event_loop` feeds the one [`mill_core::Node`], `dispatch` carries out its
//! effects with consensus, the container engine and the API. Started by `mill init` and `mill dev`
//! alike; tested on real hosts.

mod dispatch;
mod event_loop;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mill_core::api::{ApiError, Outcome, Request};
use mill_core::cluster::FeatureLevel;
use mill_core::cluster::admission::Roles;
use mill_core::cluster::node::{NodeFacts, PortPool};
use mill_core::container::{ContainerOp, OpOutput};
use mill_core::node::Founder;
use mill_core::timing::Timing;
use mill_core::{Node, NodeConfig};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::event_loop::EventLoop;
use crate::api;
use crate::clock::Clock;
use crate::docker::{Engine, EngineOptions};
use crate::host;
use crate::identity::{self, Identity, IdentityError, Opened};
use crate::recorder::Recorder;
use mill_consensus::disk::FileDisk;
use mill_consensus::{self as consensus, ConsensusError, NoTransport};

/// Consensus on the tokio runtime.
pub(crate) type Consensus = mill_consensus::Consensus<mill_consensus::PooledRuntime>;

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// Where it keeps everything.
    pub data: PathBuf,
    /// What people call this node; the host's name when absent.
    pub name: Option<String>,
    /// Address that callers reach this node's containers at.
    pub advertise: String,
    /// Path of the API's unix socket.
    pub socket: PathBuf,
    /// Address and port of the API on TCP, if wanted; asks for the token.
    pub listen: Option<String>,
    /// The container engine; the usual socket when absent.
    pub engine: Option<String>,
    /// Ports that `$PORT` is taken from.
    pub ports: PortPool,
    /// Version of the program, for people.
    pub version: String,
}

/// Why a daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The directory of its log.
    #[error("cannot open {}", path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Its log.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// A socket of the API.
    #[error("cannot listen on {address}{}", taken(source))]
    Listen {
        /// The address or path.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else is where the API's socket should be.
    #[error(
        "cannot listen on {}: something that is not a socket is there, and was left as it is; \
         name another path with --socket, or move it away", path.display()
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The container engine's address.
    #[error("{0}")]
    Engine(String),
}

fn taken(source: &io::Error) -> &'static str {
    match source.kind() == io::ErrorKind::AddrInUse {
        true => ", another program does: is another mill running here?",
        false => "",
    }
}

/// A running daemon.
pub struct Daemon {
    handle: Handle,
    /// The API token, if it was just made: shown once.
    pub new_token: Option<String>,
    /// Id of the cluster.
    pub cluster: String,
    consensus: Consensus,
    engine: Engine,
    tasks: Vec<JoinHandle<()>>,
    /// `None` once it has ended.
    event_loop: Option<JoinHandle<Result<(), String>>>,
    /// Stops the event loop.
    stop: oneshot::Sender<()>,
    /// Holds the data directory for this process.
    _identity: Opened,
    socket: PathBuf,
}

/// Asks the node of this process.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Asked>,
}

/// A request on its way to the event loop.
#[derive(Debug)]
pub(crate) struct Asked {
    request: Request,
    reply: oneshot::Sender<Outcome>,
}

/// Where in the data directory consensus keeps its log.
const LOG_DIRECTORY: &str = "raft";
/// How often containers are listed and removed until none should be left.
const REMOVE_TRIES: u32 = 20;
/// An empty list counts from this try on.
const REMOVE_LOOKS: u32 = 2;
/// Between two of these.
const REMOVE_PAUSE: Duration = Duration::from_millis(200);
/// Requests that wait for the event loop.
const REQUESTS_WAITING: usize = 256;

impl Handle {
    /// Asks; the answer may take as long as the request says.
    pub async fn ask(&self, request: Request) -> Outcome {
        let gone = || {
            let message = "the daemon was stopped before it answered";
            // A watcher that reads this asks again, and so finds the daemon that comes next.
            let error = ApiError::new(mill_core::api::ErrorCode::NoLeader, message);
            error.hint("what was asked may or may not be done: when it runs again, look with `mill status`")
        };
        let (reply, answer) = oneshot::channel();
        self.requests.send(Asked { request, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Daemon {
    /// Opens the data directory, joins or founds the cluster, and serves.
    ///
    /// # Errors
    /// When the directory, a socket or the log cannot be opened; nothing runs then.
    pub async fn start(options: DaemonOptions) -> Result<Daemon, StartError> {
        let raft = options.data.join(LOG_DIRECTORY);
        let log_file = raft.join(consensus::LOG_FILE);
        let mut opened = identity::open(&options.data, &log_file, options.name.clone())?;
        let new_token = opened.new_token.take();
        let identity = opened.identity.clone();
        let engine = Engine::connect(EngineOptions {
            host: options.engine.clone(),
            cluster: identity.cluster.clone(),
            node: identity.node,
            config: None,
        })
        .map_err(|error| StartError::Engine(error.detail))?;
        let disk =
            FileDisk::new(&raft).map_err(|source| StartError::Disk { path: raft, source })?;
        let consensus_options = consensus::Options::new(identity.node.0, identity.cluster.clone());
        let (consensus, log) =
            Consensus::open(consensus_options, Arc::new(disk), NoTransport).await?;
        consensus.initialize_single().await?;

        let (requests, asked) = mpsc::channel(REQUESTS_WAITING);
        let handle = Handle { requests };
        let serving = api::Serving {
            handle: handle.clone(),
            engine: engine.clone(),
            token_hash: identity.token_hash.clone(),
            version: options.version.clone(),
        };
        let mut tasks = vec![api::serve_unix(&options.socket, serving.clone())?];
        if let Some(address) = &options.listen {
            tasks.push(api::serve_tcp(address, serving).await?);
        }
        // Nothing that can fail for the operator's reasons follows: this start counts.
        opened.begin()?;
        let clock = Clock::start();
        let node = Node::new(node_config(&opened, &options), identity::entropy()?, clock.now());
        let recorder = record(&options, &opened, &node);
        let event_loop = EventLoop::new(node, clock, consensus.clone(), engine.clone(), recorder);
        let (stop, stopped) = oneshot::channel();
        let event_loop = tokio::spawn(event_loop.run(log, asked, stopped));
        let Identity { node, name, boot, .. } = &opened.identity;
        tracing::info!(%node, name, boot, "started");
        Ok(Daemon {
            handle,
            new_token,
            cluster: identity.cluster,
            consensus,
            engine,
            tasks,
            event_loop: Some(event_loop),
            stop,
            _identity: opened,
            socket: options.socket,
        })
    }

    /// Asks the node of this daemon.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the daemon cannot go on; says why, and what to do.
    pub async fn failed(&mut self) -> String {
        let Some(event_loop) = &mut self.event_loop else {
            return "it has stopped before".to_owned();
        };
        let ended = event_loop.await;
        self.event_loop = None;
        match ended {
            Ok(Ok(())) => "it was asked to stop".to_owned(),
            Ok(Err(reason)) => reason,
            Err(panic) => format!("it hit a bug: {panic}"),
        }
    }

    /// Stops, and removes every container that it started.
    ///
    /// # Errors
    /// When the engine refuses; says which containers are left.
    pub async fn remove(self) -> Result<(), String> {
        let engine = self.engine.clone();
        self.stop().await;
        remove_all(&engine).await
    }

    /// Stops serving; containers go on running.
    pub async fn stop(self) {
        tracing::info!("stopping; containers go on running");
        self.tasks.iter().for_each(JoinHandle::abort);
        // It may have ended by itself.
        let _ = self.stop.send(());
        if let Some(event_loop) = self.event_loop {
            // It was told to end here, so how it ended does not matter.
            let _ = event_loop.await;
        }
        self.consensus.shutdown().await;
        // The socket may be gone already.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Removes the containers of a daemon that is gone and whose directory will be: says whether `data`
/// is of such a one.
///
/// # Errors
/// When the engine refuses; says which containers are left.
pub async fn clear_left_behind(data: &Path, engine: Option<String>) -> Result<bool, String> {
    let Some((identity, _claim)) = identity::left_behind(data) else { return Ok(false) };
    let (cluster, node) = (identity.cluster, identity.node);
    let engine = Engine::connect(EngineOptions { host: engine, cluster, node, config: None })
        .map_err(|error| error.detail)?;
    remove_all(&engine).await?;
    Ok(true)
}

/// Removes every container of a cluster's node, until none is listed: the engine may still finish
/// what it was asked before who asked it ended.
async fn remove_all(engine: &Engine) -> Result<(), String> {
    let mut failed = Vec::new();
    for tried in 0..REMOVE_TRIES {
        if tried > 0 {
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
        let listed = engine.perform(ContainerOp::List).await.map_err(|error| error.detail)?;
        let OpOutput::Containers(found) = listed else { return Ok(()) };
        // One empty list says nothing of a container that is being made.
        if found.is_empty() && tried >= REMOVE_LOOKS {
            return Ok(());
        }
        let removals = found.into_iter().map(|container| async move {
            let alloc = container.alloc;
            let removed = engine.perform(ContainerOp::Remove { alloc: alloc.clone() }).await;
            removed.err().map(|error| format!("{alloc}: {}", error.detail))
        });
        let ended = futures_util::future::join_all(removals).await;
        failed = ended.into_iter().flatten().collect();
    }
    match failed.is_empty() {
        true => Err("others appear as fast as they are removed".to_owned()),
        false => Err(failed.join("; ")),
    }
}

fn node_config(opened: &Opened, options: &DaemonOptions) -> NodeConfig {
    let identity = &opened.identity;
    NodeConfig {
        id: identity.node,
        cluster: identity.cluster.clone(),
        founder: Some(Founder {
            name: identity.name.clone(),
            key: String::new(),
            roles: Roles::default(),
            labels: Default::default(),
        }),
        facts: NodeFacts {
            boot: identity.boot,
            advertise: options.advertise.clone(),
            rpc: String::new(),
            capacity: host::capacity(options.ports),
            version: options.version.clone(),
            supports: FeatureLevel::NEWEST,
        },
        timing: Timing::default(),
    }
}

/// A disk that refuses costs recordings, never service.
fn record(options: &DaemonOptions, opened: &Opened, node: &Node) -> Option<Recorder> {
    let directory = options.data.join("flight");
    match Recorder::start(&directory, opened.identity.boot, node) {
        Ok(recorder) => Some(recorder),
        Err(error) => {
            tracing::warn!(%error, "there is no flight recorder in this run");
            None
        }
    }
}
