//! A real pebble with a DNS of its own, and the servers that it validates names at. All ports are
//! free ones; what was started is ended with the test, also when it fails.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

pub mod answers;
pub mod fake;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mill_acme::{Credentials, Directory, LocalAuthority, Ordered, new_key};
use tempfile::TempDir;

use answers::Answers;

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A name that pebble's policy refuses.
pub const BLOCKED: &str = "blocked.test";
/// How often other ports are tried, if somebody takes those that were free.
const TRIES: usize = 5;

/// An authority in a process, and a DNS in another that leads every name here.
pub struct Pebble {
    dir: TempDir,
    ports: Ports,
    dns: Process,
    authority: Option<Process>,
    environment: Vec<(&'static str, &'static str)>,
    root: String,
}

#[derive(Clone, Copy)]
struct Ports {
    listen: u16,
    management: u16,
    dns: u16,
    dns_management: u16,
}

/// Ended when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Pebble {
    /// Starts it; names are validated at these answers. `environment` overrides how it behaves.
    pub async fn start(answers: &Answers, environment: &[(&'static str, &'static str)]) -> Pebble {
        let own = LocalAuthority::found().unwrap();
        let here = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let (chain, key) = own.issue(&here, 7).unwrap();
        for _ in 0..TRIES {
            let dir = TempDir::new().unwrap();
            fs::write(dir.path().join("chain.pem"), &chain).unwrap();
            fs::write(dir.path().join("key.pem"), &key).unwrap();
            let ports = free_ports();
            configure(dir.path(), ports, answers);
            let Some(dns) = start_dns(dir.path(), ports).await else { continue };
            let environment = environment.to_vec();
            let root = own.certificate_pem().to_owned();
            let mut pebble = Pebble { dir, ports, dns, authority: None, environment, root };
            if pebble.start_authority().await {
                return pebble;
            }
        }
        panic!("pebble found no ports in {TRIES} tries");
    }

    /// Ends it and starts it anew: it has forgotten everything.
    pub async fn restart(&mut self) {
        self.authority = None;
        assert!(self.start_authority().await, "pebble starts again");
    }

    /// Where it is.
    pub fn directory(&self) -> Directory {
        let url = format!("https://127.0.0.1:{}/dir", self.ports.listen);
        Directory { url, root: Some(self.root.clone()) }
    }

    /// What it says that it did.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("pebble.log")).unwrap_or_default()
    }

    async fn start_authority(&mut self) -> bool {
        let mut command = Command::new("pebble");
        command.arg("-strict").arg("-config").arg(self.dir.path().join("config.json"));
        command.arg("-dnsserver").arg(format!("127.0.0.1:{}", self.ports.dns));
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        command.envs(self.environment.iter().copied());
        let mut process = spawn(&mut command, &self.dir.path().join("pebble.log"));
        let up = listens(&mut process, self.ports.listen).await;
        self.authority = Some(process);
        up
    }
}

fn configure(dir: &Path, ports: Ports, answers: &Answers) {
    let config = serde_json::json!({ "pebble": {
        "listenAddress": format!("127.0.0.1:{}", ports.listen),
        "managementListenAddress": format!("127.0.0.1:{}", ports.management),
        "certificate": dir.join("chain.pem"),
        "privateKey": dir.join("key.pem"),
        "httpPort": answers.http_port,
        "tlsPort": answers.tls_port,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": false,
        "domainBlocklist": [BLOCKED],
    }});
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

async fn start_dns(dir: &Path, ports: Ports) -> Option<Process> {
    let mut command = Command::new("pebble-challtestsrv");
    command.args(["-defaultIPv6", "", "-defaultIPv4", "127.0.0.1"]);
    command.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
    command.arg("-dns01").arg(format!("127.0.0.1:{}", ports.dns));
    command.arg("-management").arg(format!("127.0.0.1:{}", ports.dns_management));
    let mut process = spawn(&mut command, &dir.join("dns.log"));
    let up =
        listens(&mut process, ports.dns).await && listens(&mut process, ports.dns_management).await;
    up.then_some(process)
}

fn spawn(command: &mut Command, log: &Path) -> Process {
    let log = fs::File::create(log).unwrap();
    let both = log.try_clone().unwrap();
    let started = command.stdin(Stdio::null()).stdout(log).stderr(both).spawn();
    Process(started.unwrap_or_else(|error| {
        let program = command.get_program().display();
        panic!(
            "{program} cannot be started ({error}): these tests need the package pebble, which \
             tools/install.sh test installs"
        )
    }))
}

/// Whether the process comes to listen here; false if it ends instead.
async fn listens(process: &mut Process, port: u16) -> bool {
    let wait = async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if process.0.try_wait().unwrap().is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it listens, or ends, in time")
}

fn free_ports() -> Ports {
    let held: Vec<TcpListener> =
        (0..4).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    let port = |index: usize| held[index].local_addr().unwrap().port();
    Ports { listen: port(0), management: port(1), dns: port(2), dns_management: port(3) }
}

/// A port that nobody listens on.
pub fn closed_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// An account, and a new key for a certificate.
pub async fn account(directory: &Directory) -> (Credentials, String) {
    let credentials = mill_acme::register(directory, Some("ops@example.org")).await.unwrap();
    (credentials, new_key().unwrap())
}

/// An order whose challenges are answered.
pub async fn answered(
    directory: &Directory,
    credentials: &Credentials,
    names: &[String],
    answers: &Answers,
) -> Ordered {
    let ordered = mill_acme::order(directory, credentials, names, None).await.unwrap();
    answers.show(&ordered.challenges);
    ordered
}

/// DNS names.
pub fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}
