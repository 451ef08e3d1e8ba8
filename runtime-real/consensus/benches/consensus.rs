//! What a proposal costs on a real file: alone (latency) and with others (throughput).
//!
//! One voter in the build directory's file system. Alone, a proposal pays for one commit and its
//! sync; with 64 in flight the log's task puts many into one.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use futures_util::future::join_all;
use mill_consensus::disk::FileDisk;
use mill_consensus::{ConsensusEvent, Leadership, NoTransport, Options, PooledRuntime, Proposal};
use tokio::runtime::Runtime;

type Consensus = mill_consensus::Consensus<PooledRuntime>;

/// About what an alloc's report takes.
const PAYLOAD_BYTES: usize = 256;

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 64])]
fn propose(bencher: Bencher, in_flight: usize) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = Runtime::new().unwrap();
    let consensus = runtime.block_on(lead(directory.path()));
    bencher.counter(ItemsCount::new(in_flight)).bench(|| {
        let proposals = (0..in_flight).map(|_| consensus.propose(vec![7; PAYLOAD_BYTES]));
        for proposal in runtime.block_on(join_all(proposals)) {
            assert!(matches!(proposal, Proposal::Committed { .. }), "{proposal:?}");
        }
    });
    runtime.block_on(consensus.shutdown());
}

/// A cluster of one that leads, and whose events are read.
async fn lead(directory: &std::path::Path) -> Consensus {
    let disk = Arc::new(FileDisk::new(directory).unwrap());
    let opened = Consensus::open(Options::new(1, "bench"), disk, NoTransport).await;
    let (consensus, mut events) = opened.unwrap();
    consensus.initialize_single().await.unwrap();
    loop {
        match events.recv().await.unwrap() {
            ConsensusEvent::Leadership(Leadership::Leader { .. }) => break,
            ConsensusEvent::Leadership(Leadership::Follower { .. })
            | ConsensusEvent::Members { .. }
            | ConsensusEvent::CaughtUp => {}
            other @ (ConsensusEvent::Restored { .. }
            | ConsensusEvent::Committed { .. }
            | ConsensusEvent::SnapshotWanted { .. }
            | ConsensusEvent::Failed { .. }) => panic!("{other:?}"),
        }
    }
    drop(tokio::spawn(async move {
        let mut last = 0;
        while let Some(event) = events.recv().await {
            match event {
                ConsensusEvent::Committed { entries } => {
                    last = entries.last().map_or(last, |(index, _)| *index);
                }
                ConsensusEvent::SnapshotWanted { reply } => drop(reply.send((last, Vec::new()))),
                ConsensusEvent::Leadership(_)
                | ConsensusEvent::Members { .. }
                | ConsensusEvent::CaughtUp => {}
                other @ (ConsensusEvent::Restored { .. } | ConsensusEvent::Failed { .. }) => {
                    panic!("{other:?}")
                }
            }
        }
    }));
    consensus
}
