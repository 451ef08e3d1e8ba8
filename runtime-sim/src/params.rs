//! Everything that is chosen about a run, drawn from its seed.

use std::collections::BTreeSet;

use mill_core::rng::Rng;
use mill_core::units::Millis;
use serde::Serialize;

use crate::world::faults::FaultKind;

/// The parameters of a run. Equal parameters give equal runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Params {
    /// Root of every generator in the run.
    pub seed: u64,
    /// Machines, 1 to 20.
    pub nodes: u64,
    /// Services that people deploy, at most.
    pub services: u64,
    /// People who deploy, scale, restart and look.
    pub people: u64,
    /// Between two actions of one person, on average.
    pub pause: Millis,
    /// How long people and faults are at work.
    pub turmoil: Millis,
    /// After that, how long convergence may take.
    pub patience: Millis,
    /// Between two faults, on average; zero for none at all.
    pub fault_gap: Millis,
    /// Faults that may happen.
    pub faults: BTreeSet<FaultKind>,
    /// One way through the network: lowest and highest.
    pub latency: (Millis, Millis),
    /// Messages lost while nothing is wrong, of a thousand.
    pub loss: u64,
    /// Until a quorum's disks have an entry: lowest and highest.
    pub sync: (Millis, Millis),
    /// An operation of the engine: lowest and highest.
    pub engine: (Millis, Millis),
    /// Fetching an image that is not there: lowest and highest.
    pub pull: (Millis, Millis),
    /// Clocks run this much faster or slower at most, in millionths.
    pub drift: u64,
    /// New images that are no good, of a thousand.
    pub bad_images: u64,
    /// Replicas that have requests to finish when they leave the routes, of a thousand.
    pub busy: u64,
    /// Changes that people make which are about tasks, of a thousand.
    pub tasks: u64,
    /// How long a certificate is good.
    pub certificate_life: Millis,
    /// When programs that know the mesh are installed; from the beginning, if zero.
    pub mesh_after: Millis,
    /// Whether no datagram ever passes between the first two nodes.
    pub firewall: bool,
    /// Ports in the pool of each machine.
    pub ports: u16,
}

/// Enough that nobody waits for one.
pub(crate) const MANY_PORTS: u16 = 200;

/// Ninety days.
const LONG_LIFE: Millis = Millis::mins(90 * 24 * 60);

impl Params {
    /// The parameters that a seed stands for.
    pub fn from_seed(seed: u64) -> Params {
        let mut rng = Rng::new(seed).child("params");
        // Small clusters find most bugs fastest; large ones find the rest.
        let nodes = match rng.below(10) {
            0 | 1 => 1,
            2 => 2,
            3..=5 => 3,
            6 | 7 => 5,
            8 => rng.between(4, 9),
            _ => rng.between(10, 20),
        };
        let faults = FaultKind::ALL.into_iter().filter(|_| rng.chance(600)).collect();
        let slow = rng.chance(200);
        let mesh_after =
            if rng.chance(300) { Millis::secs(rng.between(10, 300)) } else { Millis(0) };
        Params {
            seed,
            nodes,
            services: rng.between(1, 8),
            people: rng.between(1, 3),
            pause: Millis::secs(rng.between(5, 60)),
            turmoil: Millis::secs(rng.between(60, 600)),
            patience: Millis::mins(40),
            fault_gap: if rng.chance(50) { Millis(0) } else { Millis::secs(rng.between(3, 60)) },
            faults,
            latency: if slow { (Millis(20), Millis(400)) } else { (Millis(0), Millis(5)) },
            loss: if rng.chance(300) { rng.between(1, 100) } else { 0 },
            sync: if rng.chance(300) { (Millis(5), Millis(800)) } else { (Millis(1), Millis(10)) },
            engine: if slow { (Millis(50), Millis(3000)) } else { (Millis(5), Millis(300)) },
            pull: (Millis(100), Millis::secs(rng.between(1, 40))),
            drift: if rng.chance(500) { rng.between(0, 50_000) } else { 0 },
            bad_images: if rng.chance(600) { rng.between(50, 400) } else { 0 },
            busy: rng.between(0, 600),
            tasks: if rng.chance(500) { rng.between(100, 500) } else { 0 },
            certificate_life: if rng.chance(300) { Millis::mins(10) } else { LONG_LIFE },
            mesh_after,
            // Whoever joins an encrypted cluster behind one does not come in.
            firewall: mesh_after > Millis(0) && rng.chance(300),
            ports: MANY_PORTS,
        }
    }

    /// A quiet world without faults and without people: what a test or a benchmark starts from.
    pub fn calm(seed: u64, nodes: u64) -> Params {
        Params {
            seed,
            nodes,
            services: 0,
            people: 0,
            pause: Millis::secs(30),
            turmoil: Millis(0),
            patience: Millis::mins(40),
            fault_gap: Millis(0),
            faults: BTreeSet::new(),
            latency: (Millis(0), Millis(2)),
            loss: 0,
            sync: (Millis(1), Millis(5)),
            engine: (Millis(5), Millis(100)),
            pull: (Millis(100), Millis::secs(2)),
            drift: 0,
            bad_images: 0,
            busy: 0,
            tasks: 0,
            certificate_life: LONG_LIFE,
            mesh_after: Millis(0),
            firewall: false,
            ports: MANY_PORTS,
        }
    }
}
