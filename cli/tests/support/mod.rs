//! A machine for a test: a container engine of its own, a daemon, and what a person would type.
//!
//! Everything lives in one directory and is gone when the value is dropped, also after a failure.
//! Needs root and dockerd; where they are missing the tests say so, and fail if
//! `MILL_REQUIRE_ENGINE` is set, as it is in CI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A condition that does not hold by then fails its test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A host with an engine, and a daemon while one runs.
pub struct Host {
    dir: tempfile::TempDir,
    pub engine: String,
    daemon: Option<Child>,
    /// Ports of this host's pool: hosts share the machine's network.
    ports: String,
}

impl Host {
    /// A host, or the reason why there cannot be one here.
    pub fn start() -> Option<Host> {
        if let Err(reason) = possible() {
            assert!(std::env::var_os("MILL_REQUIRE_ENGINE").is_none(), "{reason}");
            eprintln!("not run: {reason}");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("mill-host-").tempdir().unwrap();
        let engine = text(tool(dir.path(), "start"));
        check(&tool(dir.path(), "images"));
        // Each test process takes a range of its own, so that tests can run side by side.
        let first = 30_000 + (std::process::id() % 300) * 100;
        let ports = format!("{first}-{}", first + 99);
        Some(Host { dir, engine: engine.trim().to_owned(), daemon: None, ports })
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
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log"));
        let log = log.unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mill"));
        command.args(["init", "--foreground", "--name", "a", "--ports", &self.ports, "--data"]);
        command.arg(data).arg("--socket").arg(self.path("mill.sock"));
        command.args(["--engine", &self.engine]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
    }

    /// Power off for the daemon alone: SIGKILL.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// How the daemon ended by itself.
    pub fn daemon_ended(&mut self) -> std::process::ExitStatus {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        daemon.wait().unwrap()
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon runs").id()
    }

    /// Runs `mill ARGS` against this host's daemon.
    pub fn mill(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mill"));
        command.args(args).env("MILL_ADDRESS", self.path("mill.sock"));
        command.current_dir(self.dir.path()).env("DOCKER_HOST", &self.engine);
        command
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
        text(Command::new("docker").arg("-H").arg(&self.engine).args(args).output().unwrap())
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
        if let Some(mut daemon) = self.daemon.take() {
            // It may have ended; the test is over either way.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.path("daemon.log")).unwrap_or_default());
        }
        let _ = tool(self.dir.path(), "stop");
    }
}

/// Waits until it holds; false if it never does.
#[expect(clippy::disallowed_methods, reason = "real processes are waited for, by condition")]
pub fn wait(mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
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

fn possible() -> Result<(), String> {
    let root = rustix::process::geteuid().is_root();
    let has = |program: &str| {
        let places = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/sbin", "/bin"];
        places.iter().any(|place| Path::new(place).join(program).exists())
    };
    if !root {
        return Err("containers on a host of the test's own need root".to_owned());
    }
    let missing: Vec<&str> =
        ["dockerd", "docker", "curl", "busybox"].into_iter().filter(|p| !has(p)).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("missing: {} (`make setup` installs them)", missing.join(", "))),
    }
}

fn tool(dir: &Path, verb: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/engine.sh");
    Command::new(script).arg(verb).arg(dir.join("engine")).output().unwrap()
}

fn check(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

fn text(output: Output) -> String {
    check(&output);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
