//! Containers through Docker: carries out core's [`ContainerOp`]s, one at a time, as asked.
//!
//! It decides nothing: no retry, no backoff, no policy. Docker's notions stay in here, and every
//! error becomes core's at one place (`errors`). A container belongs to us if it carries the
//! labels of our cluster and node. Tested against a real engine in `tests/docker`, and against a
//! `stand_in` where a real one is hard to bring to it.

mod create;
mod credentials;
mod errors;
mod events;
mod exec;
mod images;
mod logs;
mod observe;
mod ports;
mod probe;
mod pulled;
#[cfg(test)]
pub(crate) mod stand_in;
mod stop;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use mill_core::container::{ContainerOp, OpError, OpErrorKind, OpOutput};
use mill_core::name::{AllocId, NodeId};
use tokio::time::timeout;

pub use self::events::EngineSignal;
pub(crate) use self::exec::{Command, CommandHandle, Ended, Input, NotBegun, Output, Part};
pub use self::exec::{ExecWish, Terminal};
pub use self::logs::{LogLine, LogOptions, LogStream};
pub(crate) use self::pulled::FILE as PULLED_FILE;
use self::pulled::Pulled;
use crate::docker::errors::error;
use crate::traffic::Names;

/// Where Docker listens when nobody says otherwise.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// A call that should be quick and takes longer has failed.
const CALL_WITHIN: Duration = Duration::from_secs(60);

/// Which engine, and whose containers on it are ours.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// `unix://PATH`; [`DEFAULT_HOST`] when absent.
    pub host: Option<String>,
    /// Id of our cluster.
    pub cluster: String,
    /// Our node.
    pub node: NodeId,
    /// Docker's client config, for registry credentials; `~/.docker/config.json` when absent.
    pub config: Option<PathBuf>,
    /// File in which it writes down which images it pulled; it forgets them when absent.
    pub pulled: Option<PathBuf>,
}

/// A container engine. Cheap to clone; connects when it is first asked, and again as needed.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    names: Names,
}

#[derive(Debug)]
struct Shared {
    options: EngineOptions,
    socket: String,
    /// A client whose API version was agreed with the engine that runs now.
    client: Mutex<Option<Docker>>,
    pulled: Pulled,
}

/// What an engine says of itself.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// Its version.
    pub version: String,
    /// Whether containers outlive it.
    pub live_restore: bool,
    /// Where it keeps images and containers.
    pub data_root: String,
}

impl Engine {
    /// An engine by its address; it need not run yet.
    ///
    /// # Errors
    /// When the address is not that of a unix socket.
    pub fn connect(options: EngineOptions) -> Result<Engine, OpError> {
        let host = options.host.as_deref().unwrap_or(DEFAULT_HOST);
        let Some(socket) = host.strip_prefix("unix://") else {
            let detail = format!(
                "the engine's address `{host}` is not a unix socket; write \
                 unix:///path/to/docker.sock, since containers must run on this machine"
            );
            return Err(error(OpErrorKind::Rejected, detail));
        };
        let socket = socket.to_owned();
        let pulled = Pulled::read(options.pulled.clone());
        let client = Mutex::new(None);
        let shared = Arc::new(Shared { options, socket, client, pulled });
        Ok(Engine { shared, names: Names::of_the_host() })
    }

    /// The same engine; containers that it starts ask these for names.
    pub(crate) fn with_names(self, names: Names) -> Engine {
        Engine { names, ..self }
    }

    /// Carries out one operation.
    ///
    /// # Errors
    /// What went wrong, in core's terms.
    pub async fn perform(&self, op: ContainerOp) -> Result<OpOutput, OpError> {
        match op {
            ContainerOp::Resolve { reference } => {
                self.resolve(&self.docker().await?, &reference).await.map(OpOutput::Image)
            }
            ContainerOp::Fetch { image } => self.fetch(&self.docker().await?, &image).await,
            ContainerOp::PruneImages { keep } => self.prune(&self.docker().await?, &keep).await,
            ContainerOp::Start { spec } => {
                self.start(&self.docker().await?, *spec).await.map(OpOutput::Container)
            }
            ContainerOp::Restart { alloc, port } => {
                let docker = self.docker().await?;
                self.restart(&docker, &alloc, port).await.map(OpOutput::Container)
            }
            ContainerOp::Stop { alloc, plan } => {
                self.stop(&self.docker().await?, &alloc, &plan).await.map(OpOutput::Exited)
            }
            ContainerOp::Remove { alloc } => self.remove(&self.docker().await?, &alloc).await,
            ContainerOp::List => self.list(&self.docker().await?).await.map(OpOutput::Containers),
            // It asks the engine only if it must: the network answers also while that is away.
            ContainerOp::Probe { alloc, port, check, timeout } => {
                self.probe(&alloc, port, check, timeout.duration()).await
            }
            // The kernel is asked, and not the engine.
            ContainerOp::CountInFlight { port, .. } => {
                let counted = tokio::task::spawn_blocking(move || ports::in_flight(port)).await;
                counted.expect("counting cannot panic").map(OpOutput::InFlight)
            }
            ContainerOp::Tail { alloc, lines } => {
                self.tail(&self.docker().await?, &alloc, lines).await.map(OpOutput::Lines)
            }
        }
    }

    /// What the engine says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn info(&self) -> Result<EngineInfo, OpError> {
        let docker = self.docker().await?;
        let info = within(CALL_WITHIN, "asking the engine about itself", docker.info()).await?;
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            live_restore: info.live_restore_enabled.unwrap_or_default(),
            data_root: info.docker_root_dir.unwrap_or_default(),
        })
    }

    /// A client that speaks the engine's version of the API.
    async fn docker(&self) -> Result<Docker, OpError> {
        let known = self.client().clone();
        if let Some(docker) = known {
            return Ok(docker);
        }
        let doing = format!("connecting to the container engine at {}", self.shared.socket);
        let seconds = CALL_WITHIN.as_secs();
        let docker = Docker::connect_with_unix(&self.shared.socket, seconds, API_DEFAULT_VERSION)
            .map_err(|cause| errors::of(&doing, &cause))?;
        let docker = within(CALL_WITHIN, &doing, docker.negotiate_version()).await?;
        *self.client() = Some(docker.clone());
        Ok(docker)
    }

    /// The engine is gone: the next one may speak another version.
    fn forget_client(&self) {
        *self.client() = None;
    }

    fn client(&self) -> std::sync::MutexGuard<'_, Option<Docker>> {
        self.shared.client.lock().expect("nothing that holds it can panic")
    }

    fn pulled(&self) -> &Pulled {
        &self.shared.pulled
    }

    fn options(&self) -> &EngineOptions {
        &self.shared.options
    }
}

/// The container of an alloc, by name.
fn name(alloc: &AllocId) -> String {
    format!("mill-{alloc}")
}

/// A call that has to be answered in time.
async fn within<T>(
    limit: Duration,
    doing: &str,
    call: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, OpError> {
    match timeout(limit, call).await {
        Ok(answered) => answered.map_err(|cause| errors::of(doing, &cause)),
        Err(_) => Err(errors::silent(doing)),
    }
}
