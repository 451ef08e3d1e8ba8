//! WireGuard in this process: a TUN device, UDP sockets, and one thread that goes between them.
//!
//! One thread, since more were slower on small machines (docs/measured.md). It owns all state and
//! takes commands through a bounded queue, so callers wait for a batch of packets at most and hold
//! no lock. `device.rs` is the protocol, `forward.rs` the thread, `uapi.rs` what `wg show` asks.

mod device;
mod forward;
mod table;
mod tun;
mod uapi;
mod udp;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::error::Error;
use crate::keys::PrivateKey;
use crate::peers::Change;
use crate::status::{PeerStatus, Strangers};
use tun::Tun;
use udp::Sockets;

/// Commands that wait for the thread; each caller waits for its answer, so this is callers.
const MAX_WAITING: usize = 64;

/// The interface of this process. Dropping it removes it.
pub(crate) struct Userspace {
    door: Door,
    port: u16,
    thread: Option<JoinHandle<()>>,
    _uapi: Option<uapi::Server>,
}

/// What is said to the thread.
enum Command {
    Apply(Vec<Change>, SyncSender<()>),
    Rotate(PrivateKey, SyncSender<()>),
    Report(SyncSender<Report>),
    Uapi(SyncSender<Zeroizing<String>>),
    Stop,
}

/// What the thread knows.
pub(crate) struct Report {
    pub(crate) strangers: Strangers,
    pub(crate) peers: Vec<PeerStatus>,
    /// Where the kernel refuses to send, with its words.
    pub(crate) refused: Vec<(SocketAddr, String)>,
}

/// How others reach the thread.
#[derive(Clone)]
struct Door {
    interface: String,
    commands: SyncSender<Command>,
    bell: Arc<OwnedFd>,
}

impl Userspace {
    /// Makes the TUN device, down and without addresses, and starts its thread.
    pub(crate) fn start(
        interface: &str,
        key: PrivateKey,
        port: u16,
        clock: Clock,
    ) -> Result<Userspace, Error> {
        let failed = |action| move |source| Error::kernel(action, interface, source);
        let sockets = Sockets::bind(port).map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => Error::Port { port },
            _ => Error::kernel("listen for UDP", interface, source),
        })?;
        let tun = Tun::create(interface).map_err(|source| no_tun(interface, source))?;
        let port = sockets.port();
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::kernel("make an event", interface, errno.into()))?;
        let bell = Arc::new(bell);
        let (commands, orders) = sync_channel(MAX_WAITING);
        let forwarder =
            forward::Forwarder::new(interface, key, tun, sockets, Arc::clone(&bell), orders, clock);
        let thread = std::thread::Builder::new()
            .name("mill-mesh".to_owned())
            .spawn(move || forwarder.run())
            .map_err(failed("start a thread"))?;
        let door = Door { interface: interface.to_owned(), commands, bell };
        let mut this = Userspace { door, port, thread: Some(thread), _uapi: None };
        this._uapi = Some(uapi::Server::start(this.door.clone())?);
        Ok(this)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn apply(&self, changes: Vec<Change>) -> Result<(), Error> {
        self.door.ask(|reply| Command::Apply(changes, reply))
    }

    pub(crate) fn rotate(&self, key: PrivateKey) -> Result<(), Error> {
        self.door.ask(|reply| Command::Rotate(key, reply))
    }

    pub(crate) fn report(&self) -> Result<Report, Error> {
        self.door.ask(Command::Report)
    }
}

impl Drop for Userspace {
    fn drop(&mut self) {
        self._uapi = None;
        // A thread that has ended cannot be told, and need not be.
        let _ = self.door.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Door {
    /// Says something and waits for the answer.
    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer): (SyncSender<T>, Receiver<T>) = sync_channel(1);
        self.tell(command(reply))?;
        answer.recv().map_err(|_| self.ended())
    }

    fn tell(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|_| self.ended())?;
        // Fails only when the count is at its end, and then the thread is about to look anyway.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
        Ok(())
    }

    fn ended(&self) -> Error {
        Error::Ended { interface: self.interface.clone() }
    }
}

fn no_tun(interface: &str, source: std::io::Error) -> Error {
    match source.kind() {
        std::io::ErrorKind::PermissionDenied => Error::Forbidden { action: "make a TUN device" },
        std::io::ErrorKind::NotFound => Error::NoTun { source },
        std::io::ErrorKind::ResourceBusy => Error::Taken {
            interface: interface.to_owned(),
            found: "a TUN device that another process has open".to_owned(),
        },
        _ => Error::kernel("make a TUN device", interface, source),
    }
}
