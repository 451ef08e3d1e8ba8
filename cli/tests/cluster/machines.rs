//! Machines for a test: network namespaces with a container engine and a daemon each.
//!
//! Everything lives in one directory and is gone when the value is dropped; after a failure the
//! logs and the state of every node are kept there, and its path is printed.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::Value;

use crate::support::{
    PATIENCE, Running, check, forget_surroundings, json, limited, possible, said, text, wait_for,
};

/// The time, to be told, or to say which of two things was first.
#[expect(clippy::disallowed_methods, reason = "no test depends on how long anything takes")]
pub fn now() -> Instant {
    Instant::now()
}

/// What tells a container from the one that takes its place, or from itself started again.
const TOLD: &str = "{{.Name}} {{.Id}} {{.State.StartedAt}}";

/// Several machines; the first is number 1, and its address ends in that.
pub struct Machines {
    dir: Option<tempfile::TempDir>,
    net: String,
    count: usize,
    daemons: BTreeMap<usize, Running>,
    /// The network is this test's until this is dropped.
    _claim: TcpListener,
}

impl Machines {
    /// Machines with engines that hold the test images; `None` where there cannot be any.
    pub fn start(count: usize) -> Option<Machines> {
        possible(&["dockerd", "docker", "curl", "busybox", "ip", "nft", "nsenter"])?;
        let dir = tempfile::Builder::new().prefix("mill-cluster-").tempdir().unwrap();
        let mut nets = 0..100;
        let (net, claim) = nets
            .find_map(|net| {
                let port = 9_800 + net;
                Some((net, TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?))
            })
            .expect("a hundred clusters at a time are enough");
        let net = format!("77.{net}");
        let machines =
            Machines { dir: Some(dir), net, count, daemons: BTreeMap::new(), _claim: claim };
        check(&machines.tool("up", &[&machines.net, &count.to_string()]));
        machines.load_images();
        Some(machines)
    }

    /// The same with a cluster on all of them, in which as many vote as can.
    pub fn with_cluster(count: usize) -> Option<Machines> {
        let mut machines = Machines::start(count)?;
        machines.form(count);
        Some(machines)
    }

    /// Makes a cluster of the first machines, in which as many vote as can.
    pub fn form(&mut self, count: usize) {
        self.init();
        let token = self.token(&[]);
        (2..=count).for_each(|machine| self.join(machine, &token, &[]));
        let voters = if count % 2 == 1 { count.min(5) } else { (count - 1).min(5) };
        self.eventually("all are up and vote", |machines| {
            let nodes = machines.nodes(1);
            let voting = nodes.iter().filter(|node| node["votes"] == true).count();
            nodes.len() == count && nodes.iter().all(|node| node["up"] == true) && voting == voters
        });
    }

    /// The network of a machine.
    pub fn network(&self, machine: usize) -> PathBuf {
        Path::new("/run/netns").join(format!("mill10-{}-{machine}", self.net.replace('.', "-")))
    }

    pub fn all(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.count
    }

    pub fn address(&self, machine: usize) -> String {
        format!("10.{}.{machine}", self.net)
    }

    fn dir(&self) -> &Path {
        self.dir.as_ref().expect("it is there until the end").path()
    }

    /// A file of a machine.
    pub fn path(&self, machine: usize, name: &str) -> PathBuf {
        self.dir().join(machine.to_string()).join(name)
    }

    fn load_images(&self) {
        self.build("images", None);
        self.spread(&["test/web:1", "test/web:2"]);
    }

    /// Builds images on the first machine.
    fn build(&self, verb: &str, program: Option<&Path>) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/engine.sh");
        let mut command = limited(script.to_str().unwrap());
        check(&command.arg(verb).arg(self.dir().join("1")).args(program).output().unwrap());
    }

    /// The same images everywhere: what is built twice is not the same.
    fn spread(&self, images: &[&str]) {
        let saved = self.dir().join("images.tar");
        let saved = saved.to_str().unwrap();
        self.docker(1, &[&["save", "-o", saved], images].concat());
        self.all().skip(1).for_each(|machine| {
            self.docker(machine, &["load", "-q", "-i", saved]);
        });
    }

    /// Gives every machine images of a server that is quick and stops well.
    pub fn load_server(&self) {
        let server = Path::new(env!("CARGO_BIN_EXE_mill")).with_file_name("examples/serve");
        self.build("server", Some(&server));
        self.spread(&["test/serve:1", "test/serve:2"]);
    }

    /// Runs `docker ARGS` on a machine's engine.
    fn docker(&self, machine: usize, args: &[&str]) -> String {
        let socket = format!("unix://{}", self.path(machine, "docker.sock").display());
        text(limited("docker").args(["-H", &socket]).args(args).output().unwrap())
    }

    fn tool(&self, verb: &str, args: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/hosts.sh");
        limited(script.to_str().unwrap()).arg(verb).arg(self.dir()).args(args).output().unwrap()
    }

    /// Starts the first node, or a machine's node again.
    pub fn init_on(&mut self, machine: usize) {
        self.daemon(machine, &["init"]);
    }

    /// Starts the first node, and waits until it leads.
    pub fn init(&mut self) {
        self.init_on(1);
        self.eventually("the first node leads", |machines| machines.leader(1).is_some());
    }

    /// A new token, made on the first machine.
    pub fn token(&self, more: &[&str]) -> String {
        self.token_of(1, more)
    }

    /// The same on another.
    pub fn token_of(&self, machine: usize, more: &[&str]) -> String {
        self.token_by("create", machine, more)
    }

    /// The same in place of all others.
    pub fn rotated_token(&self) -> String {
        self.token_by("rotate", 1, &[])
    }

    fn token_by(&self, how: &str, machine: usize, more: &[&str]) -> String {
        let output = self.mill(machine, &[&["token", how, "--json"], more].concat());
        json(&output)["token"].as_str().unwrap_or_else(|| panic!("{}", said(&output))).to_owned()
    }

    /// The recovery key that a machine's daemon printed when the cluster began.
    pub fn recovery_key(&self, machine: usize) -> String {
        let log = fs::read_to_string(self.path(machine, "daemon.log")).unwrap();
        let key = log.lines().find_map(|line| line.split_once("keep it elsewhere: "));
        key.expect("it was printed").1.to_owned()
    }

    /// Starts a machine's daemon from a backup.
    pub fn restore(&mut self, machine: usize, file: &str, key: &str) {
        self.daemon(machine, &["backup", "restore", file, "--recovery-key", key]);
    }

    /// The same where it should be refused; what it says.
    pub fn restore_refused(&mut self, machine: usize, file: &str, key: &str) -> String {
        self.refused(machine, |machines| machines.restore(machine, file, key))
    }

    /// Starts a machine's daemon with `mill join`, through the first machine.
    pub fn join(&mut self, machine: usize, token: &str, more: &[&str]) {
        self.join_at(machine, 1, token, more);
    }

    /// The same through another.
    pub fn join_at(&mut self, machine: usize, at: usize, token: &str, more: &[&str]) {
        let at = self.address(at);
        self.daemon(machine, &[&["join", &at, "--token", token], more].concat());
    }

    /// Runs `mill join` where it should be refused; what it says.
    pub fn join_refused(&mut self, machine: usize, token: &str, more: &[&str]) -> String {
        self.refused(machine, |machines| machines.join(machine, token, more))
    }

    /// The same through another machine than the first.
    pub fn join_refused_at(&mut self, machine: usize, at: usize, token: &str) -> String {
        self.refused(machine, |machines| machines.join_at(machine, at, token, &[]))
    }

    fn refused(&mut self, machine: usize, join: impl FnOnce(&mut Machines)) -> String {
        let log = self.path(machine, "daemon.log");
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        join(self);
        self.ended(machine)[before..].to_owned()
    }

    fn daemon(&mut self, machine: usize, what: &[&str]) {
        self.daemon_by(machine, &[], what);
    }

    /// A daemon that may make no network interfaces, so that it is in no mesh.
    pub fn daemon_outside(&mut self, machine: usize, what: &[&str]) {
        self.daemon_by(machine, &["setpriv", "--bounding-set", "-net_admin"], what);
    }

    fn daemon_by(&mut self, machine: usize, by: &[&str], what: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/hosts.sh");
        let mut command = Command::new(script);
        forget_surroundings(&mut command);
        command.arg("exec").arg(self.dir()).arg(machine.to_string());
        command.args(by).arg(env!("CARGO_BIN_EXE_mill")).args(what);
        command.arg("--foreground");
        if !what.contains(&"--name") {
            command.args(["--name", &format!("m{machine}")]);
        }
        command.args(["--advertise", &self.address(machine)]);
        command.arg("--data").arg(self.path(machine, "mill"));
        command.arg("--socket").arg(self.path(machine, "mill.sock"));
        let running = Running::start(command, self.path(machine, "daemon.log"));
        self.daemons.insert(machine, running);
    }

    /// A command on a machine, whose words follow.
    pub fn command(&self, machine: usize) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/hosts.sh");
        let mut command = Command::new(script);
        command.arg("exec").arg(self.dir()).arg(machine.to_string());
        command
    }

    /// Runs `mill ARGS` against a machine's daemon.
    pub fn mill(&self, machine: usize, args: &[&str]) -> Output {
        let mut command = limited(env!("CARGO_BIN_EXE_mill"));
        forget_surroundings(&mut command);
        command.env("MILL_ADDRESS", self.path(machine, "mill.sock")).current_dir(self.dir());
        command.args(args).output().unwrap()
    }

    /// The same, and does not wait for its end.
    pub fn spawn(&self, machine: usize, args: &[&str], log: &str) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mill"));
        forget_surroundings(&mut command);
        command.env("MILL_ADDRESS", self.path(machine, "mill.sock")).current_dir(self.dir());
        command.args(args);
        Running::start(command, self.path(machine, log))
    }

    /// The same where it must succeed.
    pub fn done(&self, machine: usize, args: &[&str]) -> String {
        text(self.mill(machine, args))
    }

    /// Deploys `config` and expects it to succeed.
    pub fn deploy(&self, machine: usize, config: &str) {
        self.set_config(config);
        self.done(machine, &["deploy", "--yes"]);
    }

    /// Writes down what is deployed next.
    pub fn set_config(&self, config: &str) {
        fs::write(self.dir().join("mill.toml"), config).unwrap();
    }

    /// What a machine's daemon says of the nodes, from its own copy; nothing while it is down.
    pub fn nodes(&self, machine: usize) -> Vec<Value> {
        let output = self.mill(machine, &["node", "ls", "--stale", "--json"]);
        match output.status.success() {
            true => json(&output).as_array().unwrap().clone(),
            false => Vec::new(),
        }
    }

    /// Which machine leads, as a machine's daemon knows.
    pub fn leader(&self, machine: usize) -> Option<usize> {
        let output = self.mill(machine, &["status", "--stale", "--json"]);
        let status = output.status.success().then(|| json(&output))?;
        let leader = status["nodes"].as_array()?.iter().find(|n| n["id"] == status["leader"])?;
        leader["advertise"].as_str()?.rsplit('.').next()?.parse().ok()
    }

    /// Which machine leads, once one does and answers.
    pub fn some_leader(&self) -> usize {
        let mut found = None;
        let running: Vec<usize> = self.daemons.keys().copied().collect();
        self.eventually("somebody leads", |machines| {
            let leaders: Vec<_> = running.iter().map(|machine| machines.leader(*machine)).collect();
            found = leaders.iter().flatten().next().copied();
            found.is_some_and(|leader| machines.leader(leader) == Some(leader))
        });
        found.unwrap()
    }

    /// What a machine's node is called.
    pub fn name(&self, machine: usize) -> String {
        format!("m{machine}")
    }

    /// What a machine's daemon knows.
    pub fn status(&self, machine: usize) -> Value {
        json(&self.mill(machine, &["status", "--json", "--stale"]))
    }

    /// Allocs that have not ended, as a machine's daemon says.
    pub fn allocs(&self, machine: usize) -> Vec<Value> {
        let output = self.mill(machine, &["ps", "--json"]);
        match output.status.success() {
            true => json(&output).as_array().unwrap().clone(),
            false => Vec::new(),
        }
    }

    /// Containers that run on a machine: name, id and when they started.
    pub fn containers(&self, machine: usize) -> Vec<String> {
        let running = self.docker(machine, &["ps", "-q", "--no-trunc"]);
        let mut told: Vec<String> =
            running.lines().map(|id| self.docker(machine, &["inspect", "-f", TOLD, id])).collect();
        told.sort();
        told
    }

    /// SIGKILL for a daemon alone.
    pub fn kill_daemon(&mut self, machine: usize) {
        drop(self.daemons.remove(&machine).expect("a daemon runs there"));
    }

    /// Asks a daemon to stop, and waits until it has.
    pub fn stop_daemon(&mut self, machine: usize) {
        let daemon = self.daemons.remove(&machine).expect("a daemon runs there");
        daemon.terminate();
        assert!(daemon.ended().success(), "it stops when asked");
    }

    /// The daemon has ended by itself; what it said.
    pub fn ended(&mut self, machine: usize) -> String {
        self.daemons.remove(&machine).expect("a daemon ran there").over().said()
    }

    /// Everything on a machine dies at one instant.
    pub fn power_off(&mut self, machine: usize) {
        check(&self.tool("kill", &[&machine.to_string()]));
        self.daemons.remove(&machine);
    }

    /// The engine starts, then the daemon.
    pub fn power_on(&mut self, machine: usize) {
        check(&self.tool("engine", &[&machine.to_string()]));
        self.init_on(machine);
    }

    /// Pulls a machine's cable.
    pub fn cut(&self, machine: usize) {
        check(&self.tool("cut", &[&machine.to_string()]));
    }

    pub fn heal(&self, machine: usize) {
        check(&self.tool("heal", &[&machine.to_string()]));
    }

    /// Drops what one machine sends to another; the way back stays open.
    pub fn block(&self, from: usize, to: usize) {
        check(&self.tool("block", &[&from.to_string(), &to.to_string()]));
    }

    /// The same of one kind of packet only: `tcp/PORT` or `udp/PORT`.
    pub fn block_only(&self, from: usize, to: usize, what: &str) {
        check(&self.tool("block", &[&from.to_string(), &to.to_string(), what]));
    }

    pub fn unblock(&self) {
        check(&self.tool("unblock", &[]));
    }

    /// Waits until it holds, and says how long that took.
    pub fn eventually(&self, what: &str, mut holds: impl FnMut(&Machines) -> bool) {
        let begun = now();
        assert!(wait_for(PATIENCE * 2, || holds(self)), "{what}: did not come to hold");
        println!("{:6.2?}  {what}", begun.elapsed());
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.daemons.clear();
        // What it cannot remove does not change what the test found.
        let _ = self.tool("down", &[]);
        if std::thread::panicking() {
            for machine in self.all() {
                let log = fs::read_to_string(self.path(machine, "daemon.log")).unwrap_or_default();
                eprintln!("machine {machine} said:\n{log}");
            }
            let kept = self.dir.take().expect("it is there until the end").keep();
            eprintln!("logs and state of every node are kept in {}", kept.display());
        }
    }
}
