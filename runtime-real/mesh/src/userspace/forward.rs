//! The thread between a TUN device and UDP sockets.
//!
//! It waits for either, for a command, or for the next tick; takes a bounded number of packets from
//! each, so that none starves the others, and lets them leave together.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::Clock;
use crate::keys::PrivateKey;
use crate::peers::MAX_PEERS;
use crate::userspace::device::{Device, Sink, TICK};
use crate::userspace::tun::{Reader, Tun, Writer};
use crate::userspace::udp::{Batch, Inbox, Sockets};
use crate::userspace::{Command, Report, uapi};

/// Calls on one descriptor before the others get their turn.
const CALLS_PER_TURN: usize = 16;

/// All that the thread owns.
pub(crate) struct Forwarder {
    interface: String,
    device: Device,
    outlet: Outlet,
    inbox: Inbox,
    reader: Reader,
    bell: Arc<OwnedFd>,
    orders: Receiver<Command>,
    clock: Clock,
    next_tick: Duration,
}

/// Where packets and datagrams leave.
struct Outlet {
    tun: Tun,
    sockets: Arc<Sockets>,
    batch: Batch,
    writer: Writer,
    refused: BTreeMap<SocketAddr, String>,
}

/// Whether the thread goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    End,
}

impl Forwarder {
    pub(crate) fn new(
        interface: &str,
        key: PrivateKey,
        tun: Tun,
        sockets: Sockets,
        bell: Arc<OwnedFd>,
        orders: Receiver<Command>,
        clock: Clock,
    ) -> Forwarder {
        Forwarder {
            interface: interface.to_owned(),
            device: Device::new(key),
            outlet: Outlet {
                tun,
                sockets: Arc::new(sockets),
                batch: Batch::new(),
                writer: Writer::new(),
                refused: BTreeMap::new(),
            },
            inbox: Inbox::new(),
            reader: Reader::new(),
            bell,
            orders,
            clock,
            next_tick: Duration::ZERO,
        }
    }

    /// Until it is told to stop, or the device is taken away.
    pub(crate) fn run(mut self) {
        loop {
            let now = self.clock.now();
            if now >= self.next_tick {
                self.device.tick(now, &mut self.outlet);
                self.outlet.flush();
                self.next_tick = now + TICK;
            }
            if let Err(error) = self.wait(self.next_tick - now) {
                tracing::error!(interface = self.interface, %error, "waiting for packets failed");
                return;
            }
            let now = self.clock.now();
            self.receive(now);
            if let Err(error) = self.read(now) {
                tracing::error!(interface = self.interface, %error, "the TUN device is gone");
                return;
            }
            if self.obey(now) == Next::End {
                return;
            }
        }
    }

    fn wait(&self, limit: Duration) -> io::Result<()> {
        let mut all = vec![
            PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.outlet.tun.as_fd(), PollFlags::IN),
        ];
        let sockets = self.outlet.sockets.all();
        all.extend(sockets.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut all, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Datagrams of the network, to this machine.
    fn receive(&mut self, now: Duration) {
        let sockets = Arc::clone(&self.outlet.sockets);
        let (device, outlet) = (&mut self.device, &mut self.outlet);
        for socket in sockets.all() {
            for _ in 0..CALLS_PER_TURN {
                let some = self.inbox.receive(socket, |from, datagram| {
                    device.incoming(now, from, datagram, outlet);
                });
                if !some {
                    break;
                }
            }
        }
        outlet.flush();
    }

    /// Packets of this machine, to the network.
    fn read(&mut self, now: Duration) -> io::Result<()> {
        for _ in 0..CALLS_PER_TURN {
            match self.reader.read(&self.outlet.tun) {
                Ok(packets) => {
                    for packet in packets {
                        self.device.outgoing(now, packet, &mut self.outlet);
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => {}
                    // A packet that cannot be cut into segments has no number of the system's.
                    _ if error.raw_os_error().is_none() => {}
                    _ => return Err(error),
                },
            }
        }
        self.outlet.flush();
        Ok(())
    }

    fn obey(&mut self, now: Duration) -> Next {
        let _ = rustix::io::read(&*self.bell, &mut [0u8; 8]);
        while let Ok(command) = self.orders.try_recv() {
            // Whoever does not wait for its answer any more does not get one.
            match command {
                Command::Apply(changes, reply) => {
                    for change in &changes {
                        self.device.apply(now, change);
                    }
                    self.next_tick = now;
                    self.outlet.refused.clear();
                    let _ = reply.send(());
                }
                Command::Rotate(key, reply) => {
                    self.device.rotate(now, key, &mut self.outlet);
                    self.outlet.flush();
                    let _ = reply.send(());
                }
                Command::Report(reply) => {
                    let _ = reply.send(self.report(now));
                }
                Command::Uapi(reply) => {
                    let port = self.outlet.sockets.port();
                    let _ = reply.send(uapi::answer(&self.device, now, port));
                }
                Command::Stop => return Next::End,
            }
        }
        Next::Go
    }

    fn report(&self, now: Duration) -> Report {
        let (strangers, peers) = self.device.report(now);
        let refused = self.outlet.refused.iter().map(|(to, why)| (*to, why.clone())).collect();
        Report { strangers, peers, refused }
    }
}

impl Outlet {
    fn flush(&mut self) {
        self.writer.flush(&self.tun);
        self.send();
    }

    fn send(&mut self) {
        match self.batch.flush(&self.sockets) {
            Ok(Some(to)) if !self.refused.is_empty() => {
                self.refused.remove(&to);
            }
            Ok(_) => {}
            Err(refusal) if self.refused.len() < MAX_PEERS => {
                self.refused.insert(refusal.to, refusal.error.to_string());
            }
            Err(_) => {}
        }
    }
}

impl Sink for Outlet {
    fn datagram(&mut self, to: SocketAddr, datagram: &[u8]) {
        if !self.batch.takes(to, datagram.len()) {
            self.send();
        }
        self.batch.push(to, datagram);
    }

    fn packet(&mut self, packet: &[u8]) {
        if self.writer.is_full() {
            self.writer.flush(&self.tun);
        }
        self.writer.push(packet);
    }
}
