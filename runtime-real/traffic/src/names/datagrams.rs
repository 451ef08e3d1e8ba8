//! Questions over UDP: taken from the kernel many at a time, and answered many at a time.
//!
//! What the tables know is answered on the spot; for each question that goes on to others there is
//! a task. Tested with real sockets in `tests/names.rs`.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddrV4;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::remembered::Remembered;
use super::{Names, Outcome};

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

/// Answers until it is aborted. The socket is one of IPv4.
pub(crate) async fn serve(names: Arc<Names>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut remembered = Remembered::new();
    let mut tables = names.tables.clone();
    let mut questions = Questions::new();
    let mut answers = Answers::default();
    loop {
        if let Err(error) = questions.take(&socket).await {
            tracing::warn!(%error, "questions for names were not received");
            sleep(PAUSE).await;
        }
        for (question, from) in questions.iter() {
            // Looked at for each: nobody is told what tables said that are not there any more.
            if tables.has_changed().unwrap_or(false) {
                tables.mark_unchanged();
                remembered.forget();
            }
            let start = answers.bytes.len();
            if !remembered.answer(question, &mut answers.bytes) {
                match names.answer_now(question, SocketAddrV4::from(from).into()) {
                    Outcome::Known(answer) => {
                        remembered.keep(question, &answer);
                        answers.bytes.extend_from_slice(&answer);
                    }
                    Outcome::Once(answer) => answers.bytes.extend_from_slice(&answer),
                    Outcome::Silent => {}
                    Outcome::NotOurs(request) => {
                        tokio::spawn(pass_on(names.clone(), socket.clone(), request));
                    }
                }
            }
            if answers.bytes.len() > start {
                answers.to.push((start..answers.bytes.len(), from));
            }
        }
        answers.send(&socket).await;
        tokio::task::consume_budget().await;
    }
}

/// Asks others.
async fn pass_on(
    names: Arc<Names>,
    socket: Arc<UdpSocket>,
    request: Box<hickory_server::server::Request>,
) {
    let answer = names.answer_of_others(&request).await;
    let sent = socket.send_to(&names.written(&request, answer), request.src()).await;
    if let Err(error) = sent {
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
