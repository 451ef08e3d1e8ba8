//! A replicated log by script: one node leads for ever, and feeds the others over the wire.
//!
//! Its one voter is the leader, so an entry is committed as soon as it is proposed; the others
//! learn. Elections are simulated elsewhere (`runtime-sim/src/raft`): here it only has to say who
//! leads, and to send what the real one sends, the way that one sends it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mill_consensus::{Call, Transport};
use mill_core::cluster::command::Entry;
use mill_core::effect::Peer;
use mill_core::name::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::super::calls::Answerer;
use super::super::joining::to_json;
use super::super::wire::Wire;
use super::stage::Turmoil;

/// A follower hears from the leader at least this often.
const APPEND_EVERY: Duration = Duration::from_millis(500);
/// An append that was not answered by then is sent again.
const APPEND_WITHIN: Duration = Duration::from_secs(1);
/// Before that.
const APPEND_PAUSE: Duration = Duration::from_millis(100);

/// What the log tells its node.
pub(super) enum Told {
    Leads(NodeId),
    Committed { index: u64, entry: Box<Entry> },
    CaughtUp,
}

/// One node's copy. Clones are the same one.
#[derive(Clone)]
pub(super) struct Log {
    id: NodeId,
    copy: Arc<Mutex<Copy>>,
    grown: Arc<Notify>,
    told: mpsc::UnboundedSender<Told>,
}

#[derive(Default)]
struct Copy {
    entries: Vec<Entry>,
    leader: Option<NodeId>,
    is_caught_up: bool,
    fed: BTreeSet<NodeId>,
    /// Of a snapshot that is being received.
    pieces: Vec<u8>,
}

/// What the leader sends.
#[derive(Serialize, Deserialize)]
struct Append {
    /// How many entries come before these.
    after: u64,
    entries: Vec<Entry>,
    /// How many there are.
    all: u64,
}

impl Log {
    pub(super) fn new(id: NodeId) -> (Log, mpsc::UnboundedReceiver<Told>) {
        let (told, hears) = mpsc::unbounded_channel();
        (Log { id, copy: Arc::default(), grown: Arc::default(), told }, hears)
    }

    fn copy(&self) -> MutexGuard<'_, Copy> {
        self.copy.lock().unwrap()
    }

    fn tell(&self, told: Told) {
        // A node that was removed has ended.
        let _ = self.told.send(told);
    }

    pub(super) fn lead(&self) {
        self.copy().leader = Some(self.id);
        self.tell(Told::CaughtUp);
        self.tell(Told::Leads(self.id));
    }

    pub(super) fn leads(&self) -> bool {
        self.copy().leader == Some(self.id)
    }

    /// Appends and commits; not if another leads.
    pub(super) fn propose(&self, entry: Entry) -> bool {
        let is_leader = self.leads();
        if is_leader {
            self.add(entry);
            self.grown.notify_waiters();
        }
        is_leader
    }

    fn add(&self, entry: Entry) {
        let mut copy = self.copy();
        copy.entries.push(entry.clone());
        let index = copy.entries.len() as u64;
        drop(copy);
        self.tell(Told::Committed { index, entry: Box::new(entry) });
    }

    /// Who the members are: the leader feeds those that it does not yet.
    pub(super) fn set_members(&self, peers: &BTreeMap<NodeId, Peer>, wire: &Wire<Turmoil>) {
        if !self.leads() {
            return;
        }
        let members: BTreeSet<NodeId> = peers.keys().copied().filter(|id| *id != self.id).collect();
        let known = std::mem::replace(&mut self.copy().fed, members.clone());
        for member in members.difference(&known) {
            tokio::task::spawn_local(self.clone().feed(*member, wire.clone()));
        }
    }

    /// Sends a member what it lacks, until it is none.
    async fn feed(self, to: NodeId, wire: Wire<Turmoil>) {
        let mut has = 0;
        while self.copy().fed.contains(&to) {
            let append = self.after(has);
            let grown = self.grown.notified();
            let is_all = append.entries.is_empty();
            let asked = wire.call_consensus(to, Call::Append, to_json(&append), APPEND_WITHIN);
            match asked.await {
                Ok(answer) => has = number(&answer),
                Err(_) => sleep(APPEND_PAUSE).await,
            }
            if is_all {
                // Either will do.
                let _ = timeout(APPEND_EVERY, grown).await;
            }
        }
    }

    fn after(&self, after: u64) -> Append {
        let copy = self.copy();
        let entries = copy.entries.iter().skip(usize::try_from(after).unwrap());
        Append { after, entries: entries.cloned().collect(), all: copy.entries.len() as u64 }
    }

    fn append(&self, from: NodeId, append: Append) -> u64 {
        if self.copy().leader.replace(from).is_none() {
            self.tell(Told::Leads(from));
        }
        let length = self.copy().entries.len() as u64;
        // What was sent again is known, and there are no gaps: the leader counts what is answered.
        let known = length.saturating_sub(append.after);
        for entry in append.entries.into_iter().skip(usize::try_from(known).unwrap()) {
            self.add(entry);
        }
        let mut copy = self.copy();
        let length = copy.entries.len() as u64;
        if length == append.all && !std::mem::replace(&mut copy.is_caught_up, true) {
            drop(copy);
            self.tell(Told::CaughtUp);
        }
        length
    }

    /// A piece of a snapshot, at the offset that it begins with; says how much is there.
    fn piece(&self, body: &[u8]) -> u64 {
        let (offset, piece) = body.split_at(size_of::<u64>());
        let pieces = &mut self.copy().pieces;
        if number(offset) == pieces.len() as u64 {
            pieces.extend_from_slice(piece);
        }
        pieces.len() as u64
    }
}

impl Answerer for Log {
    async fn answer(&self, from: NodeId, call: Call, body: Vec<u8>) -> io::Result<Vec<u8>> {
        let answer = match call {
            Call::Append => self.append(from, serde_json::from_slice(&body)?),
            Call::Snapshot => self.piece(&body),
            Call::Vote | Call::PreVote | Call::TransferLead => {
                return Err(io::Error::other("there are no elections here"));
            }
        };
        Ok(answer.to_le_bytes().to_vec())
    }

    fn leader(&self) -> Option<NodeId> {
        self.copy().leader
    }
}

impl Wire<Turmoil> {
    /// As consensus calls.
    pub(super) async fn call_consensus(
        &self,
        to: NodeId,
        call: Call,
        body: Vec<u8>,
        limit: Duration,
    ) -> io::Result<Vec<u8>> {
        Transport::call(self, to.0, call, body, limit).await
    }
}

/// How many of something another node has.
pub(super) fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().unwrap())
}
