//! One simulated machine: what outlives the starts of its node, and consensus on its disk.
//!
//! Who reads what consensus says is another's matter: the list of `host.rs`, or through `pump.rs`
//! a node of Mill.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mill_consensus::disk::{Disk as _, SimulatedDisk};
use mill_consensus::{Call, Consensus, ConsensusEvent, Options, promised_term};
use mill_core::rng::Rng;
use openraft_rt::AsyncRuntime;
use tokio::sync::mpsc;

use super::network::Post;
use super::params::RaftParams;
use super::record::{self, Record};
use super::runtime::SimulatedRuntime;

/// A start has read its vote by then, and hardly anybody has asked for another.
const READS_ITS_VOTE: Duration = Duration::from_millis(1);
/// A crash comes while the disk does one of its next so many operations.
const CUT_WITHIN: u64 = 20;

/// What outlives a node's starts: the disk, and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) id: u64,
    pub(super) disk: SimulatedDisk,
    pub(super) record: Record,
    options: Options,
}

/// Consensus that has started on a machine.
pub(super) struct Started {
    pub(super) consensus: Consensus<SimulatedRuntime>,
    pub(super) events: mpsc::Receiver<ConsensusEvent>,
    /// The first state is this node's own, from before its start.
    pub(super) has_snapshot: bool,
}

impl Machine {
    pub(super) fn new(id: u64, params: &RaftParams, record: Record) -> Machine {
        let options = Options {
            snapshot_after: params.snapshot_after,
            entries_kept: params.entries_kept,
            snapshot_piece_bytes: params.snapshot_piece_bytes,
            ..Options::new(id, "simulated")
        };
        Machine { id, disk: SimulatedDisk::new(), record, options }
    }

    pub(super) fn line(&self, text: &str) {
        self.record.line(record::now(), &format!("node {} {text}", self.id));
    }

    /// Starts consensus; `None` where it could not, which is on record if it is a bug.
    pub(super) async fn start(&self, post: &Post) -> io::Result<Option<Started>> {
        self.line("starts");
        let disk = Arc::new(self.disk.clone());
        let has_snapshot = self.disk.names()?.iter().any(|name| name.starts_with("snapshot-"));
        let opened = Consensus::open(self.options.clone(), disk, post.clone()).await;
        match opened {
            Ok((consensus, events)) => {
                drop(SimulatedRuntime::spawn(self.clone().remember(consensus.clone())));
                Ok(Some(Started { consensus, events, has_snapshot }))
            }
            // The power fails at a start, too; anything else is a bug.
            Err(_) if self.disk.is_off() => Ok(None),
            Err(error) => {
                self.record.violate("start", format!("node {}: {error:?}", self.id));
                Ok(None)
            }
        }
    }

    /// Says which term a start remembers, as soon as consensus has read that.
    async fn remember(self, consensus: Consensus<SimulatedRuntime>) {
        SimulatedRuntime::sleep(READS_ITS_VOTE).await;
        self.record.starts_in(self.id, consensus.status().term);
    }

    /// What its consensus answers another's.
    pub(super) async fn answer(
        &self,
        consensus: &Consensus<SimulatedRuntime>,
        from: u64,
        call: Call,
        body: Vec<u8>,
    ) -> io::Result<Vec<u8>> {
        let asked = body.clone();
        let answer = consensus.answer(from, call, body).await?;
        if let Some(term) = promised_term::<SimulatedRuntime>(call, &asked, &answer) {
            self.record.promised(self.id, term);
        }
        Ok(answer)
    }

    /// Consensus has stopped: only a disk without power may do that.
    pub(super) fn failed(&self, reason: &str) {
        self.line(&format!("has failed: {reason}"));
        if !self.disk.is_off() {
            self.record.violate("failed", format!("node {}: {reason}", self.id));
        }
    }

    /// The power fails in the middle of what the disk does next.
    pub(super) fn loses_power(&self, rng: &mut Rng) {
        self.record.count("crashes");
        self.disk.cut_power_at(self.disk.operations().all + 1 + rng.below(CUT_WITHIN));
    }
}
