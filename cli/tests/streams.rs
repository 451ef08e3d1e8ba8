//! `mill exec` and `mill forward` against real containers on one machine.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use self::support::{Host, Running, json, said};

const WEB: &str = r#"
[service.web]
image = "test/web:1"
port = 8080
health = { path = "/healthz", interval = "1s" }
update = { healthy_for = "200ms" }
stop = { grace = "1s" }
[service.echo]
image = "test/web:1"
port = 7
replicas = 2
command = ["/bin/sh", "-c", "exec nc -ll -p $PORT -e cat"]
health = { tcp = true, interval = "1s" }
update = { healthy_for = "200ms", parallel = 2 }
stop = { grace = "0s" }
"#;

/// Bytes that look like nothing in particular.
fn noise(length: usize) -> Vec<u8> {
    let mut state: u32 = 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    };
    (0..length).map(next).collect()
}

/// Runs a command that reads `input`.
fn fed(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A command that does not read everything is a case as well.
    let _ = feeding.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_command_prints_complains_reads_and_exits_as_if_it_ran_here() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let script = "echo out; echo err >&2; exit 7";
    let ran = host.mill(&["exec", "web", "--", "sh", "-c", script]);
    assert_eq!((text(&ran.stdout), text(&ran.stderr)), ("out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(ran.status.code(), Some(7));
    // More than fits anywhere on the way, in both directions at once, and its end.
    let noise = noise(3 << 20);
    let copied = fed(host.command(&["exec", "-i", "web.0", "--", "cat"]), &noise);
    assert_eq!(copied.status.code(), Some(0), "{}", text(&copied.stderr));
    assert!(copied.stdout == noise, "{} of {} bytes", copied.stdout.len(), noise.len());
    // It is not asked for its input, so there is none.
    assert_eq!(said(&fed(host.command(&["exec", "web", "--", "cat"]), b"nothing")), "");
    // It leaves before it has read what it was given.
    let left = fed(host.command(&["exec", "-i", "web", "--", "sh", "-c", "exit 4"]), &noise);
    assert_eq!(left.status.code(), Some(4), "{}", said(&left));
    let cases = [
        (&["web", "--", "nosuch"][..], 127, "command not found"),
        (&["web", "--", "/www/healthz"], 126, "cannot be run"),
        (&["web", "--", "sh", "-c", "echo OCI runtime; exit 126"], 126, "OCI runtime"),
        // It may go on for longer than it can be heard.
        (&["web", "--", "sh", "-c", "exec >&- 2>&-; sleep 7; exit 3"], 3, ""),
        (&["nobody", "--", "sh"], 1, "there is no service, slot or alloc `nobody`"),
        (&["-t", "web", "--", "sh"], 2, "leave out -t"),
        (&["web"], 2, "COMMAND"),
    ];
    for (args, code, telling) in cases {
        let ran = host.mill(&[&["exec"], args].concat());
        assert_eq!(ran.status.code(), Some(code), "{args:?}: {}", said(&ran));
        assert!(said(&ran).contains(telling), "{args:?}: {}", said(&ran));
    }
    let alloc = host.allocs().into_iter().find(|alloc| alloc["slot"] == "web.0").unwrap();
    let alloc = alloc["id"].as_str().unwrap().to_owned();
    // Until it is started again.
    host.eventually("one that has ended is said to", || {
        host.docker(&["kill", &format!("mill-{alloc}")]);
        let ran = host.mill(&["exec", &alloc, "--", "sh"]);
        ran.status.code() == Some(1) && said(&ran).contains("is not running: it ended with exit")
    });
    host.kill_engine();
    let ran = host.mill(&["exec", "web", "--", "sh"]);
    assert_eq!(ran.status.code(), Some(1), "{}", said(&ran));
    assert!(said(&ran).contains("engine does not answer"), "{}", said(&ran));
}

/// Whether a process with these words runs anywhere on this machine.
fn runs(words: &str) -> bool {
    Command::new("pgrep").args(["-f", &format!("^{words}$")]).output().unwrap().status.success()
}

#[test]
fn a_command_that_nobody_watches_any_more_is_ended() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    // One that reads nothing, behind more input than fits on the way; and one with a child.
    let noise = host.path("noise");
    fs::write(&noise, vec![7; 4 << 20]).unwrap();
    let scripts = [("-i", "exec sleep 471101"), ("--interactive", "sleep 471102; true")];
    let running = scripts.map(|(flag, script)| {
        let mut command = host.command(&["exec", flag, "web", "--", "sh", "-c", script]);
        command.stdin(File::open(&noise).unwrap()).spawn().unwrap()
    });
    let names = ["sleep 471101", "sleep 471102"];
    host.eventually("both run", || names.iter().all(|name| runs(name)));
    for mut child in running {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    host.eventually("both are gone", || !names.iter().any(|name| runs(name)));
}

/// A terminal, and `mill` on it.
struct Desk {
    ours: File,
    theirs: OwnedFd,
    child: Child,
    log: String,
}

impl Desk {
    fn sit(host: &Host, args: &[&str], size: (u16, u16)) -> Desk {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let path = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs: OwnedFd = File::options().read(true).write(true).open(path).unwrap().into();
        let desk = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        set_size(&ours, size);
        let mut command = host.command(args);
        command.env("TERM", "mill-test");
        command.stdin(desk(&theirs)).stdout(desk(&theirs)).stderr(desk(&theirs));
        let child = command.spawn().unwrap();
        Desk { ours: ours.into(), theirs, child, log: String::new() }
    }

    fn types(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until that is printed.
    fn until(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.log.contains(text) {
            let length = self.ours.read(&mut buffer).unwrap();
            self.log.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        self.log.clear();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether keys go to the program as they are.
    fn is_raw(&self) -> bool {
        !tcgetattr(&self.theirs)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON | LocalModes::ECHO)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
    }
}

fn set_size(terminal: &OwnedFd, (rows, columns): (u16, u16)) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

#[test]
fn a_shell_on_a_terminal_has_its_size_and_leaves_it_as_it_was() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let args = ["exec", "-it", "web", "--", "sh"];
    let mut desk = Desk::sit(&host, &args, (33, 101));
    desk.types("echo ready-$TERM\n");
    desk.until("ready-mill-test");
    assert!(desk.is_raw());
    desk.types("busybox stty size\n");
    desk.until("33 101");
    let ours: OwnedFd = desk.ours.try_clone().unwrap().into();
    set_size(&ours, (40, 120));
    // It is not the controlling terminal, so the kernel tells nobody.
    desk.signal(Signal::WINCH);
    desk.types(
        "while [ \"$(busybox stty size)\" != '40 120' ]; do sleep 0.1; done; echo re''sized\n",
    );
    desk.until("resized");
    // What looks like the engine's framing is none; Ctrl-C is the command's.
    desk.types("busybox printf '\\001\\000\\000\\000\\177\\177\\177\\177frame\\n'\n");
    desk.until("\u{7f}frame");
    desk.types("sh -c 'echo be\"\"gun; exec sleep 100'\n");
    desk.until("begun");
    desk.types("\u{3}");
    desk.types("echo inter''rupted\n");
    desk.until("interrupted");
    desk.types("exit 5\n");
    assert_eq!(desk.child.wait().unwrap().code(), Some(5));
    assert!(!desk.is_raw());
    let mut desk = Desk::sit(&host, &args, (24, 80));
    desk.types("echo re''ady\n");
    desk.until("ready");
    desk.signal(Signal::TERM);
    assert_eq!(desk.child.wait().unwrap().code(), Some(143));
    assert!(!desk.is_raw());
    let mut desk = Desk::sit(&host, &["exec", "-it", "web", "--", "nosuch"], (24, 80));
    desk.until("command not found");
    assert_eq!(desk.child.wait().unwrap().code(), Some(127));
    assert!(!desk.is_raw());
}

/// Starts `mill forward` and waits until it listens; says where.
fn forwarding(host: &Host, target: &str, ports: &str, log: &str) -> (Running, u16) {
    let running = host.spawn_logged(&["forward", target, ports, "--json"], log);
    host.eventually("it listens", || running.said().contains("\"local\""));
    let line = running.said();
    let line: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    let port = line["local"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    (running, port)
}

fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

#[test]
fn connections_are_carried_to_replicas_with_both_of_their_ends() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let (web, port) = forwarding(&host, "web", "0:8080", "web.log");
    let url = format!("http://127.0.0.1:{port}/healthz");
    let got = Command::new("curl").args(["-sf", &url]).output().unwrap();
    assert_eq!(text(&got.stdout), "ok\n");
    let taken = host.mill(&["forward", "web", &format!("{port}:8080")]);
    assert_eq!(taken.status.code(), Some(1), "{}", said(&taken));
    assert!(said(&taken).contains("another program listens there"), "{}", said(&taken));
    for (args, telling) in
        [(["web", "9"], "callers use 8080"), (["nobody", "80"], "there is no service")]
    {
        let refused = host.mill(&[&["forward"], &args[..]].concat());
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains(telling), "{}", said(&refused));
    }
    web.interrupt();
    assert!(web.ended().success());

    // Many at once; each is sent whole, ended, and then read to its end.
    let (echo, port) = forwarding(&host, "echo", "0:7", "echo.log");
    let noise = noise(1 << 20);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let socket = connect(port);
                let mut reading = socket.try_clone().unwrap();
                let (mut writing, all) = (socket, &noise);
                let write = scope.spawn(move || {
                    writing.write_all(all).unwrap();
                    writing.shutdown(Shutdown::Write).unwrap();
                });
                let mut back = Vec::new();
                reading.read_to_end(&mut back).unwrap();
                write.join().unwrap();
                assert!(back == *all, "{} bytes came back", back.len());
            });
        }
    });
    assert!(!echo.said().contains("error"), "{}", echo.said());
    echo.interrupt();
    assert!(echo.ended().success());
}

#[test]
fn what_is_forwarded_to_and_ends_is_said_to_have_ended() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let alloc = host.allocs().into_iter().find(|alloc| alloc["slot"] == "echo.1").unwrap();
    let alloc = alloc["id"].as_str().unwrap().to_owned();
    let (forward, port) = forwarding(&host, &alloc, "0:7", "forward.log");
    let mut open = connect(port);
    open.write_all(b"a").unwrap();
    open.read_exact(&mut [0]).unwrap();
    let scaled = host.mill(&["scale", "echo", "1"]);
    assert!(scaled.status.success(), "{}", said(&scaled));
    // Cut off, and not ended as if it were whole: or ended by the replica itself, which was.
    let _ = open.read(&mut [0]);
    drop(connect(port));
    let forward = forward.over();
    assert!(forward.said().contains(&format!("{alloc} has ended")), "{}", forward.said());
    assert_eq!(forward.ended().code(), Some(1));
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    free.expect("nothing listens there any more");
    let status = json(&host.mill(&["status", "--json"]));
    assert!(status["services"].as_array().unwrap().iter().any(|service| service["port"] == 7));
}
