//! Everything that is chosen about a run of real consensus, drawn from its seed.

use std::time::Duration;

use mill_core::rng::Rng;
use mill_core::units::Millis;
use serde::Serialize;

use crate::params::{MANY_PORTS, Params};
use crate::world::faults::FaultKind;

/// Faults that real consensus cannot be given: a daemon stands still with all of its tasks, entries
/// come late, a snapshot is wanted at any time.
const OF_THE_MODEL: [FaultKind; 3] = [FaultKind::Freeze, FaultKind::Lag, FaultKind::Snapshot];

/// The parameters of a run. Equal parameters give equal runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RaftParams {
    /// Root of every generator in the run.
    pub seed: u64,
    /// Who votes at first: 3 or 5. One more node joins later.
    pub voters: u64,
    /// Clients that write and read.
    pub clients: u64,
    /// Between two requests of one client, on average.
    pub pause: Duration,
    /// Bytes of an entry beside its value, at most.
    pub padding: u64,
    /// How long faults are at work.
    pub turmoil: Duration,
    /// After that, how long convergence may take.
    pub patience: Duration,
    /// Between two faults, on average.
    pub fault_gap: Duration,
    /// One way through the network, at most.
    pub latency: Duration,
    /// Datagrams lost while nothing is wrong, of a thousand.
    pub loss: u64,
    /// Before and after each commit, in microseconds: lowest and highest.
    pub disk: (u64, u64),
    /// Clocks run this much faster or slower at most, in millionths.
    pub drift: u64,
    /// A snapshot is taken after this many entries.
    pub snapshot_after: u64,
    /// Entries that stay in the log after a snapshot.
    pub entries_kept: u64,
    /// What one call carries of a snapshot, in bytes.
    pub snapshot_piece_bytes: u64,
}

impl RaftParams {
    /// The parameters that a seed stands for.
    #[must_use]
    pub fn from_seed(seed: u64) -> RaftParams {
        let mut rng = Rng::new(seed).child("raft params");
        let snapshot_after = rng.between(20, 60);
        RaftParams {
            seed,
            voters: if rng.chance(650) { 3 } else { 5 },
            clients: rng.between(3, 6),
            pause: Duration::from_millis(rng.between(10, 40)),
            padding: if rng.chance(300) { 2_000 } else { 16 },
            turmoil: Duration::from_millis(rng.between(12_000, 18_000)),
            patience: Duration::from_secs(20),
            fault_gap: Duration::from_millis(rng.between(500, 2_500)),
            latency: Duration::from_millis(rng.between(2, 20)),
            loss: if rng.chance(500) { rng.below(20) } else { 0 },
            disk: (100, rng.between(500, 6_000)),
            drift: [100, 10_000, 50_000][rng.below(3) as usize],
            snapshot_after,
            entries_kept: rng.below(snapshot_after / 2),
            snapshot_piece_bytes: rng.between(300, 3_000),
        }
    }

    /// The same with snapshots after fewer entries, of which nodes write fewer than clients do.
    pub(crate) fn sooner(&self) -> RaftParams {
        let (snapshot_after, entries_kept) = (self.snapshot_after / 3, self.entries_kept / 3);
        RaftParams { snapshot_after, entries_kept, ..self.clone() }
    }

    /// The same for nodes and what is around them. Everything is near and quick, since whoever
    /// drives them moves on by milliseconds. What only a modelled log can do is left out.
    pub(crate) fn of_nodes(&self) -> Params {
        let mut rng = Rng::new(self.seed).child("params of nodes");
        Params {
            seed: self.seed,
            nodes: self.voters,
            services: rng.between(1, 4),
            people: 2,
            pause: Millis::secs(rng.between(1, 3)),
            turmoil: Millis::secs(rng.between(24, 32)),
            patience: Millis::mins(10),
            fault_gap: Millis(rng.between(1_500, 6_000)),
            faults: FaultKind::ALL
                .into_iter()
                .filter(|kind| !OF_THE_MODEL.contains(kind) && rng.chance(600))
                .collect(),
            latency: (Millis(0), Millis(10)),
            loss: self.loss,
            sync: (Millis(0), Millis(0)),
            engine: (Millis(5), Millis(100)),
            pull: (Millis(100), Millis(1_000)),
            drift: self.drift,
            mesh_after: Millis::secs(if rng.chance(300) { rng.between(4, 16) } else { 0 }),
            firewall: false,
            ports: MANY_PORTS,
            bad_images: if rng.chance(300) { 100 } else { 0 },
            busy: 300,
            tasks: if rng.chance(500) { 200 } else { 0 },
            certificate_life: Millis::mins(90 * 24 * 60),
        }
    }
}
