//! Calls between hosts, each a datagram and its answer, over the engine's network.
//!
//! Datagrams are lost in partitions and never repeated, so a call without an answer ends with its
//! limit; nothing is kept open that a partition could leave half open. Consensus' calls and
//! clients' requests go the same way.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mill_consensus::{Call, Transport};
use openraft_rt::AsyncRuntime;
use tokio::sync::oneshot;

use super::engine::{Engine, Socket as _, World};
use super::record::Record;
use super::runtime::{self, SimulatedRuntime};

/// Larger than any datagram here.
const BUFFER_BYTES: usize = 1 << 20;

/// What is asked of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// By another node's consensus.
    Consensus(Call),
    /// By a client: append this value.
    Write,
    /// By a client: all values.
    Read,
}

/// One host's end of the network. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Post {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: u64,
    socket: <World as Engine>::Socket,
    record: Record,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Vec<u8>>>>,
}

/// Layout of a datagram: kind, sender, number of the call, body.
const HEAD_BYTES: usize = 17;
const ANSWER: u8 = 0;
const WRITE: u8 = 1;
const READ: u8 = 2;
/// A call of consensus is this and its place in [`Call::ALL`].
const CONSENSUS: u8 = 10;

fn kind_of(question: Question) -> u8 {
    match question {
        Question::Write => WRITE,
        Question::Read => READ,
        Question::Consensus(call) => {
            let place = Call::ALL.iter().position(|other| *other == call);
            CONSENSUS + u8::try_from(place.expect("ALL has every call")).expect("a few calls")
        }
    }
}

fn question_of(kind: u8) -> Option<Question> {
    match kind {
        WRITE => Some(Question::Write),
        READ => Some(Question::Read),
        _ => {
            let place = usize::from(kind.checked_sub(CONSENSUS)?);
            Call::ALL.get(place).copied().map(Question::Consensus)
        }
    }
}

impl Post {
    pub(super) async fn open(id: u64, record: Record) -> io::Result<Post> {
        let socket = <World as Engine>::Socket::open().await?;
        let (next, waiting) = (AtomicU64::new(0), Mutex::default());
        Ok(Post { inner: Arc::new(Inner { id, socket, record, next, waiting }) })
    }

    /// Asks, and waits for the answer at most this long.
    pub(super) async fn ask(
        &self,
        to: u64,
        question: Question,
        body: &[u8],
        limit: Duration,
    ) -> io::Result<Vec<u8>> {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(number, sender);
        let asking = async {
            self.send(to, kind_of(question), number, body).await?;
            answer.await.map_err(io::Error::other)
        };
        let answered = SimulatedRuntime::timeout(limit, asking).await;
        self.waiting().remove(&number);
        answered.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Receives for as long as the host lives; `answer` is asked in a task for each question.
    pub(super) async fn serve<A, F>(&self, answer: A) -> io::Result<()>
    where
        A: Fn(u64, Question, Vec<u8>) -> F + Clone + Send + 'static,
        F: Future<Output = io::Result<Vec<u8>>> + Send,
    {
        let mut buffer = vec![0; BUFFER_BYTES];
        self.inner.record.hears(self.inner.id);
        loop {
            let length = self.inner.socket.receive_datagram(&mut buffer).await?;
            let datagram = &buffer[..length];
            let (head, body) = datagram.split_at(HEAD_BYTES);
            let from = number_at(&head[1..9]);
            let number = number_at(&head[9..17]);
            self.inner.record.message(from, self.inner.id, datagram);
            let body = body.to_vec();
            if head[0] == ANSWER {
                if let Some(waiting) = self.waiting().remove(&number) {
                    // Whoever asked may have stopped waiting.
                    let _ = waiting.send(body);
                }
                continue;
            }
            let question = question_of(head[0]).expect("only `ask` and `serve` send");
            let (post, answer) = (self.clone(), answer.clone());
            drop(SimulatedRuntime::spawn(async move {
                // Without an answer the other side's limit passes.
                if let Ok(body) = answer(from, question, body).await {
                    let _ = post.send(from, ANSWER, number, &body).await;
                }
            }));
        }
    }

    async fn send(&self, to: u64, kind: u8, number: u64, body: &[u8]) -> io::Result<()> {
        let mut datagram = vec![kind];
        datagram.extend_from_slice(&self.inner.id.to_le_bytes());
        datagram.extend_from_slice(&number.to_le_bytes());
        datagram.extend_from_slice(body);
        if runtime::loses_datagram() {
            return Ok(());
        }
        self.inner.socket.send_datagram(to, &datagram).await
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Vec<u8>>>> {
        self.inner.waiting.lock().expect("no code panics while it holds the calls")
    }
}

fn number_at(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

impl Transport for Post {
    async fn call(
        &self,
        to: u64,
        call: Call,
        body: Vec<u8>,
        limit: Duration,
    ) -> io::Result<Vec<u8>> {
        self.ask(to, Question::Consensus(call), &body, limit).await
    }
}
