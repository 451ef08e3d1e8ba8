//! What `wg show` asks of WireGuard in a process: text over a unix socket
//! (<https://www.wireguard.com/xplatform/>).
//!
//! Read only: peers are Mill's to set, so `wg set` is told that it may not. The private key is in
//! the answer, as it is in the kernel's, since `wg` makes the public one of it; so the socket is
//! root's alone.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use zeroize::Zeroizing;

use crate::clock;
use crate::error::Error;
use crate::userspace::device::Device;
use crate::userspace::{Command, Door};

/// Where `wg` looks for sockets.
const DIRECTORY: &str = "/var/run/wireguard";
/// Bytes of a question at most; `get=1` and an empty line are 7.
const LONGEST_QUESTION: u64 = 4096;
/// How long a client may take; one that stalls keeps others waiting.
const PATIENCE: Duration = Duration::from_secs(1);
/// `EPERM`, negative as `wg` wants it: it says "Operation not permitted".
const NOT_PERMITTED: i32 = -1;
/// `EIO`.
const BROKEN: i32 = -5;

/// The socket and its thread. Dropping it removes both.
pub(crate) struct Server {
    path: PathBuf,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(door: Door) -> Result<Server, Error> {
        let interface = door.interface.clone();
        let failed = |source| Error::kernel("make the socket for `wg`", &interface, source);
        let path = Path::new(DIRECTORY).join(format!("{interface}.sock"));
        if UnixStream::connect(&path).is_ok() {
            let found = "served by another process through its socket for `wg`".to_owned();
            return Err(Error::Taken { interface, found });
        }
        let listener = listen(&path).map_err(failed)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let stop = Arc::new(stop);
        let bell = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("mill-mesh-wg".to_owned())
            .spawn(move || serve(&listener, &bell, &door))
            .map_err(failed)?;
        Ok(Server { path, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds where nobody else can reach, then moves it into place with root's permissions only. What a
/// crash left there is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(DIRECTORY)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let private = Path::new(DIRECTORY).join(format!(".{name}.{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&private);
    std::fs::DirBuilder::new().mode(0o700).create(&private)?;
    let bound = bind(&private.join("socket"), path);
    let _ = std::fs::remove_dir_all(&private);
    bound
}

fn bind(there: &Path, path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(there)?;
    std::fs::set_permissions(there, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    std::fs::rename(there, path)?;
    Ok(listener)
}

fn serve(listener: &UnixListener, stop: &OwnedFd, door: &Door) {
    loop {
        let mut both = [
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        ];
        match poll(&mut both, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if !both[0].revents().is_empty() {
            return;
        }
        if let Ok((stream, _)) = listener.accept() {
            // A client that goes away in the middle is its own affair.
            let _ = converse(&stream, door);
        }
    }
}

/// Questions of one client, each ended by an empty line.
fn converse(stream: &UnixStream, door: &Door) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.take(LONGEST_QUESTION)).lines();
    let mut question = None;
    while let Some(line) = lines.next().transpose()? {
        if question.is_none() {
            question = Some(line);
            continue;
        }
        if !line.is_empty() {
            continue;
        }
        let text = match question.take().as_deref() {
            Some("get=1") => door.ask(Command::Uapi).map_err(|_| BROKEN),
            _ => Err(NOT_PERMITTED),
        };
        let mut stream = stream;
        match text {
            Ok(text) => stream.write_all(text.as_bytes())?,
            Err(errno) => stream.write_all(format!("errno={errno}\n\n").as_bytes())?,
        }
    }
    Ok(())
}

/// The answer to `get=1`.
pub(super) fn answer(device: &Device, now: Duration, port: u16) -> Zeroizing<String> {
    // Room for all, so that no copy with the key stays behind in memory that was outgrown.
    let (_, peers) = device.report(now);
    let mut text = Zeroizing::new(String::with_capacity(256 + 8192 * peers.len()));
    text.push_str("private_key=");
    hex(device.key().bytes(), &mut text);
    line(&mut text, format_args!("\nlisten_port={port}"));
    for peer in peers {
        text.push_str("public_key=");
        hex(peer.public_key.as_bytes(), &mut text);
        text.push('\n');
        if let Some(endpoint) = peer.endpoint {
            line(&mut text, format_args!("endpoint={endpoint}"));
        }
        let keepalive = device.keepalive(&peer.public_key).map_or(0, |every| every.as_secs());
        line(&mut text, format_args!("persistent_keepalive_interval={keepalive}"));
        for prefix in device.allowed(&peer.public_key) {
            line(&mut text, format_args!("allowed_ip={prefix}"));
        }
        let at = peer.handshake_age.map_or(Duration::ZERO, |age| clock::wall().saturating_sub(age));
        line(&mut text, format_args!("last_handshake_time_sec={}", at.as_secs()));
        line(&mut text, format_args!("last_handshake_time_nsec={}", at.subsec_nanos()));
        line(&mut text, format_args!("tx_bytes={}", peer.sent_bytes));
        line(&mut text, format_args!("rx_bytes={}", peer.received_bytes));
    }
    text.push_str("errno=0\n\n");
    text
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("a string takes any text");
}

fn hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes any text");
    }
}
