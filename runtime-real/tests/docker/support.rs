//! A container engine for a test, the adapter in front of it, and a registry.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use mill_core::config::model::HealthCheck;
use mill_core::container::{
    ContainerOp, ContainerState, Digest, Exit, Observed, OpError, OpErrorKind, OpOutput,
    PinnedImage, RunSpec, StopPlan, label,
};
use mill_core::name::{AllocId, NodeId};
use mill_core::units::Millis;
use mill_runtime_real::docker::{Engine, EngineOptions};
use serde_json::Value;

/// A condition that does not hold by then fails its test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The machine that tests of one process share while any of them runs.
static SHARED: Mutex<Weak<Machine>> = Mutex::new(Weak::new());

/// An engine in a directory of its own; gone when the value is dropped, also after a failure.
struct Machine {
    dir: tempfile::TempDir,
    /// `unix://...`
    address: String,
}

impl Machine {
    fn start() -> Machine {
        let dir = tempfile::Builder::new().prefix("mill-docker-").tempdir().unwrap();
        let address = text(tool(dir.path(), "start")).trim().to_owned();
        let machine = Machine { dir, address };
        text(tool(machine.dir.path(), "images"));
        machine
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("engine/dockerd.log"));
            let log = log.unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the engine's last words, newest first:\n{}", last.join("\n"));
        }
        let _ = tool(self.dir.path(), "stop");
    }
}

/// The adapter in front of a real engine, as the node of a cluster.
pub struct Host {
    machine: Arc<Machine>,
    pub engine: Engine,
    /// Docker's client config, which the adapter reads credentials from.
    config: tempfile::TempDir,
}

impl Host {
    /// On an engine that other tests of this process may use too; `None` where there can be none.
    pub fn start() -> Option<Host> {
        possible(&["dockerd", "docker", "curl", "busybox"])?;
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let machine = shared.upgrade().unwrap_or_else(|| Arc::new(Machine::start()));
        *shared = Arc::downgrade(&machine);
        Some(Host::on(machine, "c1", NodeId(1)))
    }

    /// On an engine that the test may kill.
    pub fn alone() -> Option<Host> {
        possible(&["dockerd", "docker", "curl", "busybox"])?;
        Some(Host::on(Arc::new(Machine::start()), "c1", NodeId(1)))
    }

    /// Another node, or one of another cluster, on the same engine.
    pub fn neighbour(&self, cluster: &str, node: u64) -> Host {
        Host::on(self.machine.clone(), cluster, NodeId(node))
    }

    fn on(machine: Arc<Machine>, cluster: &str, node: NodeId) -> Host {
        Host::with(machine, (cluster, node), tempfile::tempdir().unwrap())
    }

    fn with(
        machine: Arc<Machine>,
        (cluster, node): (&str, NodeId),
        config: tempfile::TempDir,
    ) -> Host {
        let options = EngineOptions {
            host: Some(machine.address.clone()),
            cluster: cluster.to_owned(),
            node,
            config: Some(config.path().join("config.json")),
            pulled: Some(config.path().join("pulled.json")),
        };
        Host { machine, engine: Engine::connect(options).unwrap(), config }
    }

    /// The same with an adapter that knows what is written down, and nothing more.
    pub fn restarted(self) -> Host {
        Host::with(self.machine, ("c1", NodeId(1)), self.config)
    }

    pub fn kill_engine(&self) {
        text(tool(self.machine.dir.path(), "kill"));
    }

    pub fn start_engine(&self) {
        text(tool(self.machine.dir.path(), "start"));
    }

    /// Runs `docker ARGS` on this engine: how a person sees it.
    pub fn docker(&self, args: &[&str]) -> String {
        text(self.try_docker(args)).trim().to_owned()
    }

    pub fn try_docker(&self, args: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command.arg("--config").arg(self.config.path()).arg("-H").arg(&self.machine.address);
        command.args(args).output().unwrap()
    }

    /// What the engine says about the container of an alloc.
    pub fn inspect(&self, alloc: &AllocId) -> Value {
        let found = self.docker(&["inspect", &format!("mill-{alloc}")]);
        serde_json::from_str::<Value>(&found).unwrap()[0].take()
    }

    /// Leaves a login file that is none.
    pub fn break_login(&self) {
        std::fs::write(self.config.path().join("config.json"), "{").unwrap();
    }

    /// Whether there is a container of that name, running or not.
    pub fn has_container(&self, alloc: &AllocId) -> bool {
        self.try_docker(&["inspect", &format!("mill-{alloc}")]).status.success()
    }

    pub async fn resolve(&self, reference: &str) -> Result<PinnedImage, OpError> {
        let op = ContainerOp::Resolve { reference: reference.to_owned() };
        match self.engine.perform(op).await? {
            OpOutput::Image(image) => Ok(image),
            other => panic!("{other:?}"),
        }
    }

    pub async fn fetch(&self, image: &PinnedImage) -> Result<(), OpError> {
        self.engine.perform(ContainerOp::Fetch { image: image.clone() }).await.map(drop)
    }

    pub async fn prune(&self, keep: &[PinnedImage]) -> Result<(), OpError> {
        self.engine.perform(ContainerOp::PruneImages { keep: keep.to_vec() }).await.map(drop)
    }

    pub async fn begin(&self, spec: RunSpec) -> Result<Observed, OpError> {
        match self.engine.perform(ContainerOp::Start { spec: Box::new(spec) }).await? {
            OpOutput::Container(observed) => Ok(observed),
            other => panic!("{other:?}"),
        }
    }

    pub async fn end(&self, alloc: &AllocId, plan: StopPlan) -> Result<Option<Exit>, OpError> {
        let op = ContainerOp::Stop { alloc: alloc.clone(), plan };
        match self.engine.perform(op).await? {
            OpOutput::Exited(exit) => Ok(exit),
            other => panic!("{other:?}"),
        }
    }

    pub async fn remove(&self, alloc: &AllocId) -> Result<(), OpError> {
        self.engine.perform(ContainerOp::Remove { alloc: alloc.clone() }).await.map(drop)
    }

    pub async fn list(&self) -> Result<Vec<Observed>, OpError> {
        match self.engine.perform(ContainerOp::List).await? {
            // Time passes between two looks.
            OpOutput::Containers(found) => {
                let ageless = |seen| Observed { running_for: Millis(0), ..seen };
                Ok(found.into_iter().map(ageless).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn tail(&self, alloc: &AllocId, lines: u32) -> Result<Vec<String>, OpError> {
        let op = ContainerOp::Tail { alloc: alloc.clone(), lines };
        match self.engine.perform(op).await? {
            OpOutput::Lines(lines) => Ok(lines),
            other => panic!("{other:?}"),
        }
    }

    pub async fn probe(
        &self,
        alloc: &AllocId,
        port: Option<u16>,
        check: HealthCheck,
    ) -> Result<(), OpError> {
        let alloc = alloc.clone();
        let timeout = Millis::secs(5);
        self.engine.perform(ContainerOp::Probe { alloc, port, check, timeout }).await.map(drop)
    }

    /// A service's container of `test/web:1` with the command `sh -c SCRIPT`; the image's own if
    /// the script is empty.
    pub async fn spec(&self, alloc: &str, script: &str) -> RunSpec {
        let image = self.resolve("test/web:1").await.unwrap();
        spec(alloc, image, script)
    }

    /// Waits until a container has ended and tells how.
    pub async fn exit_of(&self, alloc: &AllocId) -> Exit {
        let deadline = Deadline::new();
        loop {
            let all = self.list().await.unwrap();
            let found = all.into_iter().find(|observed| observed.alloc == *alloc);
            match found.map(|observed| observed.state) {
                Some(ContainerState::Exited(exit)) => return exit,
                state => deadline.pause(&format!("{alloc} ends ({state:?})")).await,
            }
        }
    }

    /// Waits until a container has printed a line that contains this.
    pub async fn printed(&self, alloc: &AllocId, what: &str) {
        let deadline = Deadline::new();
        while !self.tail(alloc, 100).await.unwrap().iter().any(|line| line.contains(what)) {
            deadline.pause(&format!("{alloc} prints {what}")).await;
        }
    }
}

/// See [`Host::spec`].
pub fn spec(alloc: &str, image: PinnedImage, script: &str) -> RunSpec {
    let command = match script {
        "" => Vec::new(),
        script => ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
    };
    RunSpec {
        alloc: AllocId::known(alloc),
        image,
        command,
        env: BTreeMap::new(),
        once: false,
        cpu: None,
        memory: None,
        user: None,
        read_only: false,
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        tmpfs: Vec::new(),
        port: None,
        stop_signal: "SIGTERM".to_owned(),
        labels: BTreeMap::from([(label::ALLOC.to_owned(), alloc.to_owned())]),
    }
}

pub fn stop_plan(signal: &str, grace_millis: u64) -> StopPlan {
    StopPlan { pre_stop: Vec::new(), signal: signal.to_owned(), grace: Millis(grace_millis) }
}

/// A container's process id 1 that ends on SIGTERM with 0 and says when it is ready for it.
pub const OBEYS: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
/// The same, but it does not end.
pub const IGNORES: &str = "trap '' TERM; echo ready; while :; do sleep 0.05; done";

/// That it failed so, with a sentence in which all of these occur, for people to act on.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, OpError>, kind: OpErrorKind, says: &[&str]) {
    let error = result.unwrap_err();
    println!("{:?}: {}", error.kind, error.detail);
    assert_eq!(error.kind, kind, "{}", error.detail);
    for part in says {
        assert!(error.detail.contains(part), "no `{part}` in: {}", error.detail);
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

/// Until when something is waited for.
pub struct Deadline(Instant);

impl Deadline {
    #[expect(clippy::disallowed_methods, reason = "a real engine is waited for, by condition")]
    pub fn new() -> Deadline {
        Deadline(Instant::now() + PATIENCE)
    }

    #[track_caller]
    pub fn pause(&self, what: &str) -> impl Future<Output = ()> + use<> {
        let left = self.0.checked_duration_since(Deadline::new().0 - PATIENCE);
        assert!(left.is_some(), "did not come to hold: {what}");
        tokio::time::sleep(Duration::from_millis(20))
    }
}

/// A registry with a login: user `mill`, password `mill`.
pub struct Registry {
    dir: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

impl Registry {
    /// A registry that answers, and that this host has no login for.
    pub async fn start() -> Option<Registry> {
        possible(&["docker-registry", "htpasswd"])?;
        let dir = tempfile::Builder::new().prefix("mill-registry-").tempdir().unwrap();
        let made = Command::new("htpasswd").args(["-Bbn", "mill", "mill"]).output().unwrap();
        std::fs::write(dir.path().join("htpasswd"), text(made)).unwrap();
        let port = free_port();
        let root = dir.path().display();
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\n\
             storage: {{filesystem: {{rootdirectory: {root}/data}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\n\
             auth: {{htpasswd: {{realm: mill, path: {root}/htpasswd}}}}\n"
        );
        std::fs::write(dir.path().join("registry.yml"), config).unwrap();
        let mut registry = Registry { dir, port, server: None };
        registry.serve().await;
        Some(registry)
    }

    /// Serves what it has, again if it was stopped.
    pub async fn serve(&mut self) {
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(self.dir.path().join("registry.yml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(command.spawn().unwrap());
        let deadline = Deadline::new();
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            deadline.pause("the registry listens").await;
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // It may have ended by itself; then the test says so.
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// The name of an image in it.
    pub fn image(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// What `docker login` does on the host.
    pub fn login(&self, host: &Host, password: &str) {
        use base64::Engine as _;
        let login = base64::prelude::BASE64_STANDARD.encode(format!("mill:{password}"));
        let address = format!("127.0.0.1:{}", self.port);
        let config = serde_json::json!({ "auths": { address: { "auth": login } } });
        std::fs::write(host.config.path().join("config.json"), config.to_string()).unwrap();
    }

    /// Pushes an image of the host's under this name, and leaves no trace of it on the host.
    pub fn push(&self, host: &Host, local: &str, name: &str) {
        self.login(host, "mill");
        let target = self.image(name);
        host.docker(&["tag", local, &target]);
        host.docker(&["push", "--quiet", &target]);
        host.docker(&["rmi", &target]);
    }

    /// Lets a name mean what another means, without the host's doing.
    pub fn copy(&self, from: &str, to: &str) {
        let address = |name: &str, what: &str, tag: &str| {
            format!("http://127.0.0.1:{}/v2/{name}/{what}/{tag}", self.port)
        };
        let curl = |more: &[&str]| {
            let mut command = Command::new("curl");
            text(command.args(["-sf", "-u", "mill:mill"]).args(more).output().unwrap())
        };
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let ((from, from_tag), (to, to_tag)) =
            (from.split_once(':').unwrap(), to.split_once(':').unwrap());
        let accept = format!("Accept: {kind}");
        let manifest = curl(&["-H", &accept, &address(from, "manifests", from_tag)]);
        let told: Value = serde_json::from_str(&manifest).unwrap();
        let blobs = told["layers"].as_array().unwrap().iter().chain([&told["config"]]);
        for blob in blobs {
            let digest = blob["digest"].as_str().unwrap();
            let mount = address(to, "blobs", &format!("uploads/?mount={digest}&from={from}"));
            curl(&["-X", "POST", &mount]);
        }
        let kind = format!("Content-Type: {kind}");
        let to = address(to, "manifests", to_tag);
        curl(&["-X", "PUT", "-H", &kind, "--data-binary", &manifest, &to]);
    }

    /// The same from another machine: what this host knows under the name stays.
    pub fn push_elsewhere(&self, host: &Host, local: &str, name: &str) {
        let target = self.image(name);
        let before = host.docker(&["image", "inspect", "-f", "{{.Id}}", &target]);
        self.push(host, local, name);
        host.docker(&["tag", &before, &target]);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The digest of an image that is in a registry.
pub fn registry_digest(image: &PinnedImage) -> &str {
    match &image.digest {
        Digest::Registry(digest) => digest,
        Digest::Local(id) => panic!("{id} is the id of a local image"),
    }
}

/// `None`, and the reason printed, where such a test cannot run.
fn possible(programs: &[&str]) -> Option<()> {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/sbin", "/bin"];
    let has = |program: &str| places.iter().any(|place| Path::new(place).join(program).exists());
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !has(program)).collect();
    let reason = if !rustix::process::geteuid().is_root() {
        "a container engine of the test's own needs root".to_owned()
    } else if missing.is_empty() {
        return Some(());
    } else {
        format!("missing: {} (`make setup` installs them)", missing.join(", "))
    };
    assert!(std::env::var_os("MILL_REQUIRE_ENGINE").is_none(), "{reason}");
    eprintln!("not run: {reason}");
    None
}

fn tool(dir: &Path, verb: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/engine.sh");
    Command::new(script).arg(verb).arg(dir.join("engine")).output().unwrap()
}

#[track_caller]
fn text(output: Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&both));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
