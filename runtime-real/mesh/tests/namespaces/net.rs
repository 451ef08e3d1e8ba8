//! Machines made of network namespaces: two or three, on veth pairs, and gone afterwards.
//!
//! A host has a thread that lives in its namespace; what a test does there is handed to it. Names
//! carry the process's id, and what a killed test left behind goes with the next one.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// What any one thing may take at most; all take milliseconds, but for handshakes that wait.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Whether this machine can run these tests. If not it says why, or fails where it must not be.
pub fn can_run(programs: &[&str]) -> bool {
    let missing = |program: &&&str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        !found.is_ok_and(|output| output.status.success())
    };
    let reason = if !rustix::process::geteuid().is_root() {
        "it needs root, to make network namespaces".to_owned()
    } else if !std::path::Path::new("/dev/net/tun").exists() {
        "it needs /dev/net/tun".to_owned()
    } else if let Some(program) = ["ip"].iter().chain(programs).find(missing) {
        format!("it needs the program {program}: see tools/install.sh test")
    } else {
        return true;
    };
    assert!(std::env::var_os("MILL_REQUIRE_ENGINE").is_none(), "{reason}");
    println!("not run: {reason}");
    false
}

/// Runs a program to its end; what it printed.
pub fn program(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {text}{errors}");
    text
}

type Work = Box<dyn FnOnce() + Send>;

/// A machine: a namespace, and a thread in it.
pub struct Host {
    /// Its namespace's name.
    pub namespace: String,
    work: Option<Sender<Work>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Host {
    /// A machine without cables.
    pub fn new() -> Host {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("millmesh-{}-{number}", std::process::id());
        program(&format!("ip netns add {namespace}"));
        let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        let (work, orders) = channel::<Work>();
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            while let Ok(order) = orders.recv() {
                order();
            }
        });
        let host = Host { namespace, work: Some(work), thread: Some(thread) };
        host.ip("link set lo up");
        // Nothing for a test's addresses ever takes another way, also without its interface.
        for network in ["10.213.0.0/16", "10.214.0.0/16"] {
            host.ip(&format!("route add unreachable {network} metric 4096"));
        }
        host
    }

    /// Does it there, and waits.
    pub fn run<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, answer) = channel();
        let order: Work = Box::new(move || {
            let _ = reply.send(act());
        });
        self.work.as_ref().unwrap().send(order).unwrap();
        answer.recv().expect("the thread of the host has panicked")
    }

    /// `ip` there; what it printed.
    pub fn ip(&self, arguments: &str) -> String {
        program(&format!("ip -n {} {arguments}", self.namespace))
    }

    /// `nft` there.
    pub fn nft(&self, arguments: &str) {
        program(&format!("ip netns exec {} nft {arguments}", self.namespace));
    }

    /// A program there, that dies with the test.
    pub fn spawn(&self, line: &str) -> Program {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace));
        command.args(line.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped());
        Program(command.process_group(0).spawn().unwrap())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

/// A program that is killed when this is dropped.
pub struct Program(pub std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Removes namespaces of tests whose process is gone.
fn sweep() {
    let listed = program("ip netns list");
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix("millmesh-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|id| !std::path::Path::new(&format!("/proc/{id}")).exists()) {
            // Another test may be sweeping too.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Two hosts with a cable between: 10.213.0.1 and .2, fd00:213::1 and ::2, on eth0.
pub fn pair() -> [Host; 2] {
    let hosts = [Host::new(), Host::new()];
    cable([&hosts[0], &hosts[1]], "eth0", "10.213.0");
    hosts
}

/// A cable between two hosts, with addresses `NET.1/24` and `NET.2/24`.
pub fn cable(ends: [&Host; 2], name: &str, net: &str) {
    let there = &ends[1].namespace;
    ends[0].ip(&format!("link add {name} type veth peer name {name} netns {there}"));
    for (number, host) in ends.iter().enumerate() {
        let number = number + 1;
        host.ip(&format!("addr add {net}.{number}/24 dev {name}"));
        host.ip(&format!("addr add fd00:213::{number}/64 dev {name} nodad"));
        host.ip(&format!("link set {name} up"));
    }
}

/// Repeats until it holds; panics with the words if it never does.
#[expect(clippy::disallowed_methods, reason = "tests of real time wait for conditions in it")]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a datagram of `bytes` from one host reaches an address of the other and comes back,
/// within some tries of a tenth of a second.
pub fn reaches(from: &Host, to: &Host, address: &str, bytes: usize, tries: usize) -> bool {
    let address: IpAddr = address.parse().unwrap();
    let server = to.run(move || UdpSocket::bind((address, 0)).unwrap());
    let target = server.local_addr().unwrap();
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (stop, stopped) = channel::<()>();
    let echo = std::thread::spawn(move || {
        let mut room = vec![0; 1 << 16];
        while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            if let Ok((length, back)) = server.recv_from(&mut room) {
                let _ = server.send_to(&room[..length], back);
            }
        }
    });
    let came_back = from.run(move || ask(target, bytes, tries));
    drop(stop);
    echo.join().unwrap();
    came_back
}

fn ask(target: SocketAddr, bytes: usize, tries: usize) -> bool {
    let any: IpAddr =
        if target.is_ipv4() { [0, 0, 0, 0].into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let client = UdpSocket::bind((any, 0)).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut room = vec![0; 1 << 16];
    (0..tries).any(|_| {
        let _ = client.send_to(&vec![7; bytes], target);
        client.recv(&mut room).is_ok_and(|length| length == bytes)
    })
}
