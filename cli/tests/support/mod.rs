//! A machine for a test: a container engine of its own, a daemon, and what a person would type.
//!
//! Everything lives in one directory and is gone when the value is dropped, also after a failure.
//! Needs root and dockerd; where they are missing the tests say so, and fail if
//! `MILL_REQUIRE_ENGINE` is set, as it is in CI.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process_group};
use serde_json::Value;

/// A condition that does not hold by then fails its test.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A program that takes longer is ended, with exit code 124.
const LIMIT: &str = "60";

/// A host with an engine, and a daemon while one runs.
pub struct Host {
    dir: tempfile::TempDir,
    pub engine: String,
    has_engine: bool,
    daemon: Option<Running>,
    /// Ports of this host's pool: hosts share the machine's network.
    ports: String,
    /// Listens on the port after the pool's last: the pool is this host's until it is dropped.
    _claim: TcpListener,
}

impl Host {
    /// A host whose engine does not answer: for what needs none.
    pub fn bare() -> Host {
        let dir = tempfile::Builder::new().prefix("mill-host-").tempdir().unwrap();
        let engine = format!("unix://{}", dir.path().join("no-engine.sock").display());
        // Below the ports that the kernel gives to whoever asks for any.
        let mut blocks = (10_000..20_000).step_by(100);
        let (first, claim) = blocks
            .find_map(|first| {
                Some((first, TcpListener::bind((Ipv4Addr::LOCALHOST, first + 99)).ok()?))
            })
            .expect("a hundred hosts at a time are enough");
        let ports = format!("{first}-{}", first + 98);
        Host { dir, engine, has_engine: false, daemon: None, ports, _claim: claim }
    }

    /// A host, or `None` where there cannot be one.
    pub fn start() -> Option<Host> {
        Host::start_prepared(|_| ())
    }

    /// The same; `prepare` is handed the engine's directory before there is an engine.
    pub fn start_prepared(prepare: impl FnOnce(&Path)) -> Option<Host> {
        possible(&["dockerd", "docker", "curl", "busybox"])?;
        let mut host = Host::bare();
        prepare(&host.dir.path().join("engine"));
        host.has_engine = true;
        host.engine = text(tool(host.dir.path(), "start")).trim().to_owned();
        check(&tool(host.dir.path(), "images"));
        Some(host)
    }

    /// The same with a daemon that answers.
    pub fn with_daemon() -> Option<Host> {
        let mut host = Host::start()?;
        host.start_daemon();
        Some(host)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the daemon and waits until it leads.
    pub fn start_daemon(&mut self) {
        self.spawn_daemon(&self.path("data"));
        self.eventually("the daemon leads", || {
            let status = self.mill(&["status", "--json"]);
            status.status.success()
                && json(&status)["nodes"].as_array().is_some_and(|nodes| !nodes.is_empty())
        });
    }

    /// Starts the daemon and does not wait.
    pub fn spawn_daemon(&mut self, data: &Path) {
        self.daemon = Some(self.spawn_on(data, "mill.sock", "daemon.log", &[]));
    }

    /// Another daemon, that the test keeps.
    pub fn spawn_on(&self, data: &Path, socket: &str, log: &str, more: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mill"));
        forget_surroundings(&mut command);
        command.args(["init", "--foreground", "--name", "a", "--rpc", "127.0.0.1:0"]);
        command.args(["--ports", &self.ports, "--data"]);
        command.arg(data).arg("--socket").arg(self.path(socket));
        command.args(["--engine", &self.engine]).args(more);
        Running::start(command, self.path(log))
    }

    /// Power off for the daemon alone: SIGKILL.
    pub fn kill_daemon(&mut self) {
        drop(self.daemon.take().expect("a daemon runs"));
    }

    /// The daemon is the test's from now on.
    pub fn take_daemon(&mut self) -> Running {
        self.daemon.take().expect("a daemon runs")
    }

    /// Runs `mill ARGS` against this host's daemon.
    pub fn mill(&self, args: &[&str]) -> Output {
        let mut command = limited(env!("CARGO_BIN_EXE_mill"));
        self.prepare(&mut command);
        command.args(args).output().unwrap()
    }

    /// `mill ARGS` against this host's daemon, for a test that has more to say about it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mill"));
        self.prepare(&mut command);
        command.args(args);
        command
    }

    /// The same, and does not wait for its end.
    pub fn spawn(&self, args: &[&str]) -> Running {
        self.spawn_logged(args, "spawned.log")
    }

    /// The same, for several at a time: what it prints is added to `log`.
    pub fn spawn_logged(&self, args: &[&str], log: &str) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mill"));
        self.prepare(&mut command);
        command.args(args);
        Running::start(command, self.path(log))
    }

    /// The same by another program, which drops rights first.
    pub fn spawn_by(&self, by: &[&str], args: &[&str]) -> Running {
        let [program, before @ ..] = by else { panic!("there is a program") };
        let mut command = Command::new(program);
        self.prepare(&mut command);
        command.args(before).arg(env!("CARGO_BIN_EXE_mill")).args(args);
        Running::start(command, self.path("spawned.log"))
    }

    /// The same with its standard output somewhere else.
    pub fn spawn_into(&self, args: &[&str], stdout: impl Into<Stdio>) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mill"));
        self.prepare(&mut command);
        command.args(args);
        Running::start_into(command, self.path("spawned.log"), Some(stdout.into()))
    }

    fn prepare(&self, command: &mut Command) {
        forget_surroundings(command);
        command.env("MILL_ADDRESS", self.path("mill.sock")).env("DOCKER_HOST", &self.engine);
        command.env("TMPDIR", self.dir.path()).current_dir(self.dir.path());
    }

    /// Writes `mill.toml`.
    pub fn config(&self, text: &str) {
        fs::write(self.path("mill.toml"), text).unwrap();
    }

    /// Deploys `text` and expects it to succeed.
    pub fn deploy(&self, text: &str) -> String {
        self.config(text);
        let output = self.mill(&["deploy", "--yes"]);
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }

    /// Deploys `text`, expects it to fail, and returns what was said.
    pub fn deploy_fails(&self, text: &str) -> String {
        self.config(text);
        let output = self.mill(&["deploy", "--yes"]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    }

    /// Runs `docker ARGS` on this host's engine.
    pub fn docker(&self, args: &[&str]) -> String {
        text(limited("docker").arg("-H").arg(&self.engine).args(args).output().unwrap())
    }

    /// Names and ids of containers, running or not.
    pub fn containers(&self) -> Vec<(String, String)> {
        let listed = self.docker(&["ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}"]);
        let mut found: Vec<(String, String)> = listed
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, id)| (name.to_owned(), id.to_owned()))
            .collect();
        found.sort();
        found
    }

    /// Allocs as `mill ps` lists them.
    pub fn allocs(&self) -> Vec<Value> {
        let output = self.mill(&["ps", "--json"]);
        match output.status.success() {
            true => json(&output).as_array().unwrap().clone(),
            false => Vec::new(),
        }
    }

    /// Waits until it holds.
    pub fn eventually(&self, what: &str, holds: impl FnMut() -> bool) {
        let log = || fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
        assert!(wait(holds), "{what}: did not come to hold; the daemon said:\n{}", log());
    }

    pub fn kill_engine(&self) {
        check(&tool(self.dir.path(), "kill"));
    }

    pub fn start_engine(&self) {
        check(&tool(self.dir.path(), "start"));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.daemon.take());
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.path("daemon.log")).unwrap_or_default());
        }
        if self.has_engine {
            // What it cannot remove does not change what the test found.
            let _ = tool(self.dir.path(), "stop");
        }
    }
}

/// A program that runs in a process group of its own, and is killed when this is dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it; what it prints is added to `log`.
    pub fn start(command: Command, log: PathBuf) -> Running {
        Running::start_into(command, log, None)
    }

    fn start_into(mut command: Command, log: PathBuf, stdout: Option<Stdio>) -> Running {
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let stdout = stdout.unwrap_or_else(|| file.try_clone().unwrap().into());
        command.stdin(Stdio::null()).stdout(stdout).stderr(file);
        let child = command.process_group(0).spawn().unwrap();
        Running { child, log }
    }

    /// What it has printed so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// What Ctrl-C does: the signal goes to the whole process group.
    pub fn interrupt(&self) {
        let group = Pid::from_child(&self.child);
        kill_process_group(group, Signal::INT).unwrap();
    }

    /// What systemd does first: the signal goes to the process alone.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; it is still there to be asked.
    pub fn over(mut self) -> Running {
        let over = wait(|| self.child.try_wait().unwrap().is_some());
        assert!(over, "it does not end; it said:\n{}", self.said());
        self
    }

    /// How it ended by itself.
    pub fn ended(mut self) -> ExitStatus {
        let mut status = None;
        let over = wait(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(over, "it does not end; it said:\n{}", self.said());
        status.expect("it is over")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended; the test is done with it either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A registry that answers on this machine; with `login`, only to user `mill`, password `mill`.
pub struct Registry {
    dir: tempfile::TempDir,
    pub address: String,
    server: Option<Running>,
}

impl Registry {
    /// A registry, or `None` where there cannot be one.
    pub fn start(login: bool) -> Option<Registry> {
        possible(&["docker-registry", "htpasswd"])?;
        let dir = tempfile::Builder::new().prefix("mill-registry-").tempdir().unwrap();
        let root = dir.path().display();
        let address = format!("127.0.0.1:{}", free_port());
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {root}/data}}}}\n\
             http: {{addr: \"{address}\"}}\n"
        );
        if login {
            let made = Command::new("htpasswd").args(["-Bbn", "mill", "mill"]).output().unwrap();
            fs::write(dir.path().join("htpasswd"), text(made)).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: mill, path: {root}/htpasswd}}}}\n");
        }
        fs::write(dir.path().join("registry.yml"), config).unwrap();
        let mut registry = Registry { dir, address, server: None };
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(registry.dir.path().join("registry.yml"));
        registry.server = Some(Running::start(command, registry.dir.path().join("log")));
        assert!(wait(|| TcpStream::connect(&registry.address).is_ok()), "the registry listens");
        Some(registry)
    }
}

/// A port that nobody listens on just now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Waits until it holds; false if it never does.
pub fn wait(holds: impl FnMut() -> bool) -> bool {
    wait_for(PATIENCE, holds)
}

/// Waits for so long at most; false if it never holds.
#[expect(clippy::disallowed_methods, reason = "real processes are waited for, by condition")]
pub fn wait_for(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Pauses between two acts of a person.
#[expect(clippy::disallowed_methods, reason = "what happens after any pause must hold")]
pub fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// What a command printed, both ways.
pub fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// What a command printed as JSON.
pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)))
}

/// `None`, and the reason printed, where a test that needs root and these cannot run.
pub fn possible(programs: &[&str]) -> Option<()> {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/sbin", "/bin"];
    let has = |program: &str| places.iter().any(|place| Path::new(place).join(program).exists());
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !has(program)).collect();
    let reason = if !rustix::process::geteuid().is_root() {
        "containers on a host of the test's own need root".to_owned()
    } else if missing.is_empty() {
        return Some(());
    } else {
        format!("missing: {} (`make setup` installs them)", missing.join(", "))
    };
    assert!(std::env::var_os("MILL_REQUIRE_ENGINE").is_none(), "{reason}");
    eprintln!("not run: {reason}");
    None
}

/// What a developer has set for a `mill` of their own is none of a test's.
pub fn forget_surroundings(command: &mut Command) {
    ["RUST_LOG", "MILL_LOG", "MILL_TOKEN"].iter().for_each(|name| {
        command.env_remove(name);
    });
}

fn tool(dir: &Path, verb: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/engine.sh");
    limited(script.to_str().unwrap()).arg(verb).arg(dir.join("engine")).output().unwrap()
}

/// A command that cannot take for ever.
pub fn limited(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", LIMIT, program]);
    command
}

pub fn check(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

pub fn text(output: Output) -> String {
    check(&output);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
