//! Questions over UDP: taken from the kernel many at a time, and answered many at a time.
//!
//! What the tables know is answered on the spot; for each question that goes on to others there is
//! a task, unless it is at a limit. Tested with real sockets in `tests/names.rs`.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hickory_server::server::Request;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::askers::{Askers, Over};
use super::others::Waiting;
use super::remembered::Remembered;
use super::{Names, Outcome, Passed};

/// Questions that are taken at a time.
const BATCH: usize = 32;
/// No question is longer; what is cut off there is malformed.
const LONGEST: usize = 4096;
/// After the kernel refused something, this long nothing is asked of it.
const PAUSE: Duration = Duration::from_millis(200);

/// Questions as they came.
struct Questions {
    buffers: Vec<[u8; LONGEST]>,
    came: Vec<(usize, SockaddrIn)>,
}

/// Answers as they go.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    to: Vec<(Range<usize>, SockaddrIn)>,
}

/// One socket, and what is needed to answer what comes to it.
struct Serving {
    names: Arc<Names>,
    askers: Askers,
    socket: Arc<UdpSocket>,
    here: SocketAddr,
}

/// Answers until it is aborted. The socket is one of IPv4.
pub(super) async fn serve(names: Arc<Names>, askers: Askers, socket: UdpSocket) {
    let here = match socket.local_addr() {
        Ok(here) => here,
        Err(error) => {
            tracing::error!(%error, "the name server has ended; restart the daemon");
            return;
        }
    };
    let serving = Serving { names, askers, socket: Arc::new(socket), here };
    let mut remembered = Remembered::new();
    let mut tables = serving.names.tables.clone();
    let mut questions = Questions::new();
    let mut answers = Answers::default();
    loop {
        if let Err(error) = questions.take(&serving.socket).await {
            tracing::warn!(%error, "questions for names were not received");
            sleep(PAUSE).await;
        }
        let mut known = 0;
        for (question, from) in questions.iter() {
            // Looked at for each: nobody is told what tables said that are not there any more.
            if tables.has_changed().unwrap_or(false) {
                tables.mark_unchanged();
                remembered.forget();
            }
            let start = answers.bytes.len();
            if remembered.answer(question, &mut answers.bytes) {
                known += 1;
            } else {
                let from = SocketAddrV4::from(from).into();
                serving.answer(question, from, &mut remembered, &mut answers.bytes);
            }
            if answers.bytes.len() > start {
                answers.to.push((start..answers.bytes.len(), from));
            }
        }
        // Once for all of them, as they are many.
        serving.names.counts.known.fetch_add(known, Ordering::Relaxed);
        answers.send(&serving.socket).await;
        tokio::task::consume_budget().await;
    }
}

impl Serving {
    /// Writes the answer to a question, if it is there at once.
    fn answer(
        &self,
        question: &[u8],
        from: SocketAddr,
        remembered: &mut Remembered,
        out: &mut Vec<u8>,
    ) {
        let Serving { names, askers, socket, here } = self;
        let (answer, count) = match names.answer_now(question, from, Over::Udp) {
            Outcome::Known(answer) => {
                remembered.keep(question, &answer);
                (answer, &names.counts.known)
            }
            Outcome::Once(answer) => (answer, &names.counts.known),
            Outcome::Malformed(answer) => (answer, &names.counts.malformed),
            Outcome::Silent => return,
            Outcome::NotOurs(request) => {
                match names.pass_on(&request, || askers.who(Over::Udp, from, *here)) {
                    Passed::Now(answer) => out.extend_from_slice(&answer),
                    Passed::Later(waiting) => {
                        let waiting = answer_later(names.clone(), socket.clone(), request, waiting);
                        tokio::spawn(waiting);
                    }
                }
                return;
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        out.extend_from_slice(&answer);
    }
}

/// Sends the answer of others, once it is there.
async fn answer_later(
    names: Arc<Names>,
    socket: Arc<UdpSocket>,
    request: Box<Request>,
    waiting: Waiting,
) {
    let answer = names.answer_later(&request, waiting).await;
    if let Err(error) = socket.send_to(&answer, request.src()).await {
        tracing::debug!(%error, "an answer was not sent");
    }
}

impl Questions {
    fn new() -> Questions {
        Questions { buffers: vec![[0; LONGEST]; BATCH], came: Vec::with_capacity(BATCH) }
    }

    /// Waits for some.
    async fn take(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.came.clear();
        while self.came.is_empty() {
            socket.readable().await?;
            match socket.try_io(Interest::READABLE, || self.take_now(socket)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take_now(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let buffers = self.buffers.iter_mut();
        let mut slices: Vec<_> = buffers.map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let came = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None)?;
        for question in came {
            // A sender without an address, or at port 0, cannot be answered.
            let from = question.address.filter(|from| from.port() != 0);
            let nobody = SockaddrIn::new(0, 0, 0, 0, 0);
            let bytes = from.map_or(0, |_| question.bytes);
            self.came.push((bytes, from.unwrap_or(nobody)));
        }
        // With room left there is nothing more for now, which saves asking for it.
        if self.came.len() < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], SockaddrIn)> {
        let came = self.came.iter().zip(&self.buffers);
        came.map(|((length, from), buffer)| (&buffer[..*length], *from))
    }
}

impl Answers {
    /// Sends all; what cannot be sent to one is not held against the others.
    async fn send(&mut self, socket: &UdpSocket) {
        let mut sent = 0;
        while sent < self.to.len() {
            let result = socket.try_io(Interest::WRITABLE, || self.send_now(socket, sent));
            match result {
                Ok(count) => sent += count.max(1),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if socket.writable().await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "an answer was not sent");
                    sent += 1;
                }
            }
        }
        self.bytes.clear();
        self.to.clear();
    }

    fn send_now(&self, socket: &UdpSocket, from: usize) -> io::Result<usize> {
        let rest = &self.to[from..];
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(rest.len(), None);
        let bytes = rest.iter().map(|(range, _)| &self.bytes[range.clone()]);
        let slices: Vec<_> = bytes.map(|bytes| [IoSlice::new(bytes)]).collect();
        let addresses: Vec<_> = rest.iter().map(|(_, to)| Some(*to)).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, addresses, [], flags)?;
        Ok(sent.count())
    }
}
