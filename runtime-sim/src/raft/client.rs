//! Clients that write and read, and remember how each request ended.
//!
//! A client sends each value once: to the node that it believes leads, and to nobody else. Without
//! an answer it does not know, and goes on with another value.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mill_core::rng::Rng;
use openraft_rt::AsyncRuntime;

use super::history::{Outcome, Request};
use super::host::{DONE, REFUSED, value_of};
use super::network::{Post, Question};
use super::record::{self, Record, Value};
use super::runtime::SimulatedRuntime;

/// A client waits this long for an answer.
const LIMIT: Duration = Duration::from_millis(800);

/// What clients have seen. Clones are the same history.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    requests: Arc<Mutex<Vec<Request>>>,
}

impl History {
    fn add(&self, request: Request) {
        self.requests.lock().expect("no code panics while it holds the history").push(request);
    }

    pub(super) fn all(&self) -> Vec<Request> {
        self.requests.lock().expect("no code panics while it holds the history").clone()
    }
}

/// One client.
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) nodes: u64,
    pub(super) pause: Duration,
    pub(super) padding: u64,
    pub(super) rng: Rng,
    pub(super) record: Record,
    pub(super) history: History,
    /// The driver sets it when clients shall end.
    pub(super) is_over: Arc<std::sync::atomic::AtomicBool>,
}

impl Client {
    /// Works until it is over.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let post = Post::open(self.id, self.record.clone()).await?;
        let serving = post.clone();
        drop(SimulatedRuntime::spawn(async move {
            let answers_nobody =
                |_, _, _| async { Err(io::Error::other("a client answers nobody")) };
            serving.serve(answers_nobody).await
        }));
        let mut leader = 1 + self.rng.below(self.nodes);
        let mut number = 0;
        while !self.is_over.load(std::sync::atomic::Ordering::Relaxed) {
            let pause = self.rng.between(1, 2 * self.pause.as_micros() as u64);
            SimulatedRuntime::sleep(Duration::from_micros(pause)).await;
            number += 1;
            let reads = self.rng.chance(250);
            let next = match reads {
                true => self.read(&post, leader).await,
                false => self.write(&post, leader, self.id << 32 | number).await,
            };
            leader = match next {
                Next::Same => leader,
                Next::Try(node) if node > 0 => node,
                Next::Try(_) => 1 + self.rng.below(self.nodes),
            };
        }
        Ok(())
    }

    async fn write(&mut self, post: &Post, leader: u64, value: Value) -> Next {
        let padding = self.rng.below(self.padding + 1) as usize;
        let body = [value.to_le_bytes().to_vec(), vec![0x5a; padding]].concat();
        let called = record::now();
        let answer = post.ask(leader, Question::Write, &body, LIMIT).await.unwrap_or_default();
        match answer.split_first() {
            Some((&DONE, _)) => {
                self.record.count("writes acknowledged");
                self.ended(called, Outcome::Written(value));
                Next::Same
            }
            Some((&REFUSED, node)) => {
                self.record.count("writes refused");
                self.ended(called, Outcome::Refused(value));
                Next::Try(value_of(node))
            }
            Some(_) | None => {
                self.record.count("writes unknown");
                Next::Try(0)
            }
        }
    }

    async fn read(&mut self, post: &Post, leader: u64) -> Next {
        let called = record::now();
        let answer = post.ask(leader, Question::Read, &[], LIMIT).await.unwrap_or_default();
        match answer.split_first() {
            Some((&DONE, values)) => {
                self.record.count("reads confirmed");
                let values = values.chunks_exact(8).map(value_of).collect();
                self.ended(called, Outcome::Read(values));
                Next::Same
            }
            Some((&REFUSED, node)) => Next::Try(value_of(node)),
            Some(_) | None => Next::Try(0),
        }
    }

    fn ended(&self, called: crate::time::SimTime, outcome: Outcome) {
        let answered = record::now();
        self.history.add(Request { client: self.id, called, answered, outcome });
    }
}

/// Whom to ask next.
enum Next {
    Same,
    /// This node, or any for 0.
    Try(u64),
}
