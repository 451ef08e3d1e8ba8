//! The production runtime of a node: opens what it needs, then turns events into effects' results.
//!
//! It decides nothing: `event_loop` feeds the one [`mill_core::Node`], `dispatch` carries out its
//! effects with consensus, the container engine and the API. Started by `mill init`, `mill join`
//! and `mill dev` alike; tested on real hosts, and what nodes say to each other in `tests`.
//! - `membership`, `joining`: who this node is, and how it became that
//! - `wire`, `calls`: what it says to other nodes, and what they say to it

mod calls;
mod clearing;
mod dispatch;
mod door;
mod error;
mod event_loop;
mod inside;
mod joining;
mod membership;
#[cfg(test)]
mod tests;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mill_core::api::{ApiError, Outcome, Request};
use mill_core::cluster::FeatureLevel;
use mill_core::cluster::admission::Roles;
use mill_core::cluster::node::{NodeFacts, PortPool};
use mill_core::event::Origin;
use mill_core::node::Founder;
use mill_core::timing::Timing;
use mill_core::{Event, Node, NodeConfig};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::calls::Answering;
pub use self::clearing::clear_left_behind;
use self::clearing::remove_all;
use self::dispatch::{Dispatch, Ends};
use self::door::Door;
pub use self::error::StartError;
use self::event_loop::{Ended, EventLoop};
pub(crate) use self::joining::create_token;
use self::joining::{Admitting, Joiner};
pub use self::joining::{Invitation, JoinError, TokenWish};
use self::membership::Membership;
use self::wire::Wire;
use crate::acme::{Certifier, LocalFiles};
use crate::api;
use crate::backup::{Backup, Sealing};
use crate::book;
use crate::clock::Clock;
use crate::docker::{Engine, EngineOptions, PULLED_FILE};
use crate::host;
use crate::identity::{self, Identity, LOG_FOLDER, Opened};
use crate::ingress::{Front, IngressOptions};
use crate::mesh::{self, MeshKey, Meshing};
use crate::pki::{self, Authority};
use crate::recorder::Recorder;
use crate::recovery_key::RecoveryKey;
use crate::rpc::{Limits, Server, Tcp};
use crate::streams::Streams;
use crate::token::JoinToken;
use crate::traffic;
use crate::vault::{ClusterKey, Vault};
use mill_consensus as consensus;
use mill_consensus::disk::FileDisk;

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
    /// Address and port to serve other nodes at; nobody can join without. Port 0 is any free one,
    /// and where the address stands for all, others are told the one above.
    pub rpc: Option<String>,
    /// Address and port of the API on TCP, if wanted; asks for the token.
    pub listen: Option<String>,
    /// The container engine; the usual socket when absent.
    pub engine: Option<String>,
    /// Ports that `$PORT` is taken from.
    pub ports: PortPool,
    /// Where requests from outside come in.
    pub ingress: IngressOptions,
    /// Version of the program, for people.
    pub version: String,
}

/// A running daemon.
pub struct Daemon {
    handle: Handle,
    /// Who it is.
    pub beginning: Beginning,
    /// Address and port that other nodes reach it at, if it serves them.
    pub rpc: Option<String>,
    node: u64,
    /// Fingerprint of the cluster's authority.
    authority: String,
    events: mpsc::Sender<Event>,
    consensus: Consensus,
    engine: Engine,
    tasks: Vec<JoinHandle<()>>,
    front: Front,
    meshing: Meshing,
    /// `None` once it has ended.
    event_loop: Option<JoinHandle<Ended>>,
    /// Stops the event loop.
    stop: oneshot::Sender<()>,
    /// Holds the data directory for this process.
    _identity: Opened,
    socket: PathBuf,
}

/// Who a node is, and what is shown only once.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Id of the cluster.
    pub cluster: String,
    /// What this node is called.
    pub name: String,
    /// The API token, if it was just made.
    pub new_token: Option<String>,
    /// The recovery key, the same.
    pub new_recovery_key: Option<RecoveryKey>,
}

impl Beginning {
    fn of(opened: &mut Opened) -> Beginning {
        Beginning {
            cluster: opened.identity.cluster.clone(),
            name: opened.identity.name.clone(),
            new_token: opened.new_token.take(),
            new_recovery_key: opened.new_recovery_key.take(),
        }
    }
}

/// Why a daemon ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// Its node was removed from the cluster: what still runs here is to be removed.
    #[error("its node was removed from the cluster")]
    Removed,
    /// Something that it needs has failed; says what to do.
    #[error("{0}")]
    Failed(String),
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
    origin: Origin,
    reply: oneshot::Sender<Outcome>,
}

/// Requests that wait for the event loop.
const REQUESTS_WAITING: usize = 256;
/// Results of effects, and messages, that wait for the event loop.
const EVENTS_WAITING: usize = 1024;
/// How often is looked whether another node leads, before this one stops, and for how long.
const HAND_OVER_LOOKS: u32 = 40;
const HAND_OVER_PAUSE: Duration = Duration::from_millis(25);

impl Handle {
    /// Asks; the answer may take as long as the request says.
    pub async fn ask(&self, request: Request) -> Outcome {
        self.ask_for(Origin::Client, request).await
    }

    /// The same in the name of somebody else.
    pub(crate) async fn ask_for(&self, origin: Origin, request: Request) -> Outcome {
        let gone = || {
            let message = "the daemon was stopped before it answered";
            // A watcher that reads this asks again, and so finds the daemon that comes next.
            let error = ApiError::new(mill_core::api::ErrorCode::NoLeader, message);
            error.hint("what was asked may or may not be done: when it runs again, look with `mill status`")
        };
        let (reply, answer) = oneshot::channel();
        self.requests.send(Asked { request, origin, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Of a node that is a test's.
    #[cfg(test)]
    pub(crate) fn answered(mut answer: impl FnMut(Request) -> Outcome + Send + 'static) -> Handle {
        let (requests, mut asked) = mpsc::channel::<Asked>(REQUESTS_WAITING);
        drop(tokio::spawn(async move {
            while let Some(Asked { request, reply, .. }) = asked.recv().await {
                // Who does not wait any more needs no answer.
                let _ = reply.send(answer(request));
            }
        }));
        Handle { requests }
    }
}

impl Daemon {
    /// Starts the node that the data directory is of, or the first one of a new cluster.
    ///
    /// # Errors
    /// When the directory, a socket or the log cannot be opened; nothing runs then.
    pub async fn start(options: DaemonOptions) -> Result<Daemon, StartError> {
        let door = Door::open(&options).await?;
        let (data, name) = (&options.data, options.name.clone());
        let membership = Membership::found(data, &log_file(data), name, door.mesh.clone().ok())?;
        Daemon::run(options, door, membership).await
    }

    /// Makes the data directory that of the first node of a new cluster, for a daemon that is
    /// started later; or says whose it is. What is to be shown once is handed to `show`, and is new
    /// in each call until one of them has returned from that.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn enroll(
        options: &DaemonOptions,
        show: impl FnOnce(&Beginning),
    ) -> Result<Beginning, StartError> {
        let (data, name) = (&options.data, options.name.clone());
        let mut opened = Membership::found(data, &log_file(data), name, None)?.opened;
        let beginning = Beginning::of(&mut opened);
        show(&beginning);
        opened.announce()?;
        Ok(beginning)
    }

    /// The same for a new node of the cluster that the invitation is from.
    ///
    /// # Errors
    /// As [`Daemon::enroll`], and when the cluster does not let it in.
    pub async fn enroll_joining(
        options: &DaemonOptions,
        invitation: &Invitation,
    ) -> Result<Beginning, StartError> {
        // What others are told must be so: the door is opened, and closed for the daemon.
        let joiner = Joiner::of(options, &Door::open(options).await?);
        let data = &options.data;
        let membership = Membership::join(Tcp, data, &log_file(data), invitation, &joiner).await?;
        let mut opened = membership.opened;
        Ok(Beginning::of(&mut opened))
    }

    /// Starts the node that the data directory is of, or a new one of the cluster that the
    /// invitation is from. Safe to repeat.
    ///
    /// # Errors
    /// As [`Daemon::start`], and when the cluster does not let it in.
    pub async fn join(
        options: DaemonOptions,
        invitation: Invitation,
    ) -> Result<Daemon, StartError> {
        let door = Door::open(&options).await?;
        let joiner = Joiner::of(&options, &door);
        let data = &options.data;
        let log = log_file(data);
        let membership = Membership::join(Tcp, data, &log, &invitation, &joiner).await?;
        Daemon::run(options, door, membership).await
    }

    /// Starts a new machine as the only node of a cluster that was backed up, and goes on from
    /// there. Safe to repeat once it has begun.
    ///
    /// # Errors
    /// As [`Daemon::start`], and when the backup or the key is not good.
    pub async fn restore(
        options: DaemonOptions,
        backup: &Backup,
        key: &RecoveryKey,
    ) -> Result<Daemon, StartError> {
        let door = Door::open(&options).await?;
        let joiner = Joiner::of(&options, &door);
        let data = &options.data;
        let membership = Membership::restore(data, &log_file(data), (backup, key), &joiner)?;
        Daemon::run(options, door, membership).await
    }

    async fn run(
        options: DaemonOptions,
        door: Door,
        membership: Membership,
    ) -> Result<Daemon, StartError> {
        let Membership { mut opened, credentials, authority, cluster_key, mesh } = membership;
        let book = book::read(&options.data);
        let mesh = inside::key(mesh, &door, book.as_ref())?;
        let mesh_facts = mesh.as_ref().ok().map(MeshKey::facts);
        let known = watch::Sender::new(book.clone().unwrap_or_default());
        let vault = Vault::new(&cluster_key);
        let local =
            options.ingress.authority.as_deref().map(|folder| LocalFiles::new(folder).open());
        let local = local.transpose().map_err(StartError::LocalAuthority)?.map(Arc::new);
        let certifier = Certifier::new(vault.clone(), local);
        let beginning = Beginning::of(&mut opened);
        let identity = opened.identity.clone();
        let engine = Engine::connect(EngineOptions {
            host: options.engine.clone(),
            cluster: identity.cluster.clone(),
            node: identity.node,
            config: None,
            pulled: Some(options.data.join(PULLED_FILE)),
        })
        .map_err(|error| StartError::Engine(error.detail))?;
        let traffic::Started { tables, names, carried, carrying } = traffic::start(identity.node);
        let engine = engine.with_names(names);
        let raft = options.data.join(LOG_FOLDER);
        let disk =
            FileDisk::new(&raft).map_err(|source| StartError::Disk { path: raft, source })?;
        let consensus_options = consensus::Options::new(identity.node.0, identity.cluster.clone());
        let (events, happened) = mpsc::channel(EVENTS_WAITING);
        let wire =
            Wire::new(Tcp, &credentials, events.clone()).map_err(StartError::Certificates)?;
        let (consensus, log) =
            Consensus::open(consensus_options, Arc::new(disk), wire.clone()).await?;
        if !identity.joined {
            consensus.initialize_single().await?;
        }

        let (requests, asked) = mpsc::channel(REQUESTS_WAITING);
        let handle = Handle { requests };
        let authority_print = pki::fingerprint(&credentials.authority);
        let me = (identity.node, identity.name.as_str());
        let streams = Streams::new(handle.clone(), engine.clone(), wire.peers(), me);
        let (meshing, end) = mesh::prepare(identity.node, mesh, known.subscribe(), events.clone());
        let ingress = options.ingress.clone();
        let front =
            Front::new(identity.node, ingress, vault.clone(), &options.data, events.clone());
        let serving = api::Serving {
            handle: handle.clone(),
            streams: streams.clone(),
            token_hash: identity.token_hash.clone(),
            version: options.version.clone(),
            sealing: authority
                .as_ref()
                .map(|authority| Arc::new(sealing(&identity, authority, &cluster_key))),
            vault: vault.clone(),
            inviting: door.address.clone().map(|rpc| (rpc, authority_print.clone())),
            meshing: meshing.clone(),
            carried,
            front: front.clone(),
        };
        let mut tasks = vec![api::serve_unix(&options.socket, serving.clone())?, carrying];
        if let Some(address) = &options.listen {
            tasks.push(api::serve_tcp(address, serving).await?);
        }
        let admitting = Admitting {
            authority,
            cluster_key,
            token_hash: identity.token_hash.clone(),
            recovery: identity.recovery.clone(),
            handle: handle.clone(),
            wire: wire.clone(),
            consensus: consensus.clone(),
        };
        let answering = Answering {
            consensus: consensus.clone(),
            events: events.clone(),
            known: known.subscribe(),
            admitting,
        };
        let paths = calls::router(answering).merge(streams.router());
        let server = Server::new(&credentials, paths, Limits::default());
        let server = server.map_err(StartError::Certificates)?;
        // Nothing that can fail for the operator's reasons follows: this start counts.
        opened.begin()?;
        let clock = Clock::start();
        let mut config = node_config(&opened, &options, &credentials.fingerprint(), door.told());
        config.book.clone_from(&book);
        config.facts.mesh = mesh_facts;
        let node = Node::new(config, identity::entropy()?, clock.now());
        let recorder = record(&options, &opened, &node);
        let (retired, is_retired) = oneshot::channel();
        let (keeper, keeping) = book::keeper(options.data.clone());
        tasks.extend(end.map(|end| inside::begin(end, &door, &server)));
        let dispatch = Dispatch::new(
            consensus.clone(),
            engine.clone(),
            Ends { wire, server: server.clone(), known, kept: keeper, meshing: meshing.clone() },
            (tables, front.clone(), certifier),
            events.clone(),
            retired,
        );
        if let Some(known) = book {
            dispatch.open_book(&known);
        }
        let event_loop = EventLoop::new(node, clock, dispatch, engine.clone(), recorder);
        let (stop, stopped) = oneshot::channel();
        let event_loop = tokio::spawn(event_loop.run(log, happened, asked, stopped, is_retired));
        let rpc = door.address.clone();
        tasks.push(keeping);
        tasks.extend(door.listener.map(|door| tokio::spawn(calls::serve(door, server))));
        let Identity { node, name, boot, .. } = &opened.identity;
        tracing::info!(%node, name, boot, "started");
        Ok(Daemon {
            handle,
            beginning,
            rpc,
            node: identity.node.0,
            authority: authority_print,
            events,
            consensus,
            engine,
            tasks,
            front,
            meshing,
            event_loop: Some(event_loop),
            stop,
            _identity: opened,
            socket: options.socket,
        })
    }

    /// Makes a token with which other machines can join.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn create_token(&self, wish: TokenWish) -> Result<JoinToken, ApiError> {
        create_token(&self.handle, &self.authority, wish).await
    }

    /// Asks the node of this daemon.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the daemon cannot go on.
    pub async fn ended(&mut self) -> End {
        let Some(event_loop) = &mut self.event_loop else {
            return End::Failed("it has stopped before".to_owned());
        };
        let ended = event_loop.await;
        self.event_loop = None;
        match ended {
            Ok(Ended::Stopped) => End::Failed("it was asked to stop".to_owned()),
            Ok(Ended::Removed) => End::Removed,
            Ok(Ended::Failed(reason)) => End::Failed(reason),
            Err(panic) => End::Failed(format!("it hit a bug: {panic}")),
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
        self.hand_over().await;
        self.front.stop().await;
        self.tasks.iter().for_each(JoinHandle::abort);
        // It may have ended by itself.
        let _ = self.stop.send(());
        if let Some(event_loop) = self.event_loop {
            // It was told to end here, so how it ended does not matter.
            let _ = event_loop.await;
        }
        self.consensus.shutdown().await;
        self.meshing.stop();
        // The socket may be gone already.
        let _ = std::fs::remove_file(&self.socket);
    }

    /// If this node leads, and there is somebody else who can, lets them: then nobody has to
    /// find out that this one is gone.
    async fn hand_over(&self) {
        // A loop that has ended hands nothing over.
        let _ = self.events.send(Event::Stopping).await;
        for _ in 0..HAND_OVER_LOOKS {
            let status = self.consensus.status();
            let leads = status.leader == Some(self.node);
            if !leads || status.voters.len() == 1 {
                return;
            }
            tokio::time::sleep(HAND_OVER_PAUSE).await;
        }
    }
}

impl Joiner {
    fn of(options: &DaemonOptions, door: &Door) -> Joiner {
        Joiner {
            name: options.name.clone().unwrap_or_else(identity::host_name),
            advertise: options.advertise.clone(),
            rpc: door.told(),
            version: options.version.clone(),
            mesh: door.mesh.clone().ok(),
        }
    }
}

fn sealing(identity: &Identity, authority: &Authority, cluster_key: &ClusterKey) -> Sealing {
    Sealing {
        cluster: identity.cluster.clone(),
        authority: authority.to_pem(),
        cluster_key: cluster_key.clone(),
        token_hash: identity.token_hash.clone(),
        recovery: identity.recovery.clone(),
    }
}

fn log_file(data: &Path) -> PathBuf {
    data.join(LOG_FOLDER).join(consensus::LOG_FILE)
}

fn node_config(opened: &Opened, options: &DaemonOptions, key: &str, rpc: String) -> NodeConfig {
    let identity = &opened.identity;
    let founder = Founder {
        name: identity.name.clone(),
        key: key.to_owned(),
        roles: Roles::default(),
        labels: Default::default(),
        network: traffic::free_network(&identity.cluster, options.rpc.is_none()),
    };
    NodeConfig {
        id: identity.node,
        cluster: identity.cluster.clone(),
        founder: (!identity.joined).then_some(founder),
        facts: NodeFacts {
            boot: identity.boot,
            advertise: options.advertise.clone(),
            rpc,
            capacity: host::capacity(options.ports),
            version: options.version.clone(),
            supports: FeatureLevel::NEWEST,
            unrouted: None,
            mesh: None,
        },
        timing: Timing::default(),
        book: None,
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
