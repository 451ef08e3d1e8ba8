//! A machine: what is on it, what survives a crash of the daemon, and what survives the power.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mill_core::api::RequestId;
use mill_core::cluster::node::{Capacity, NodeFacts, PortPool};
use mill_core::cluster::{FeatureLevel, Revision};
use mill_core::event::Leadership;
use mill_core::name::NodeId;
use mill_core::net::Tables;
use mill_core::node::Members;
use mill_core::rng::Rng;
use mill_core::units::{Bytes, Millicores};
use mill_core::{Event, Node};

use crate::models::clock::Clock;
use crate::models::engine::Engine;
use crate::params::Params;
use crate::time::SimTime;
use crate::world::Asker;
use crate::world::mesh::MeshEnd;

/// What every daemon runs.
pub(super) const VERSION: &str = "0.1.0";

/// A machine and what runs on it.
pub struct Host {
    /// Its number.
    pub id: NodeId,
    /// The number under which it was bought.
    pub(super) machine: u64,
    /// What its daemon says of it; `boot` is set at each start.
    pub facts: NodeFacts,
    /// Its clocks.
    pub clock: Clock,
    /// Its engine; survives the daemon.
    pub engine: Engine,
    /// It was taken away and will never come back.
    pub gone: bool,
    /// Whether it has power.
    pub powered: bool,
    /// The daemon, while it runs.
    pub daemon: Option<Node>,
    /// How often the daemon was started.
    pub boots: u64,
    /// Its daemon stands still; what reaches it waits.
    pub frozen: bool,
    pub(super) backlog: VecDeque<(u64, Event)>,
    /// While it leads, its disk takes seconds for an entry.
    pub slow_disk: bool,
    /// Committed entries do not reach it until then.
    pub lags_until: SimTime,
    /// The state it wrote down last: survives everything.
    pub(super) snapshot: Option<(Revision, Arc<Vec<u8>>)>,
    /// The members that it knows of, and their version: survives everything.
    pub(super) members: Option<(u64, Members)>,
    /// What the daemon was given of the log since its start.
    pub(super) fed: Fed,
    /// The last entry that any of its daemons was given.
    pub(super) had: u64,
    /// When it is to be called back.
    pub(super) wake: Option<SimTime>,
    /// What its daemon carries traffic by, with the boot that said so.
    pub(super) tables: Option<(u64, Arc<Tables>)>,
    /// It may make no network interfaces.
    pub(super) has_left_mesh: bool,
    /// What it knows of the encrypted network.
    pub(super) mesh: MeshEnd,
    /// A flight recording of its daemon, line by line, while somebody wants one.
    pub(super) recording: Option<Vec<String>>,
    /// Who waits for which answer.
    pub(super) waiting: BTreeMap<RequestId, Asker>,
    /// Questions whose answer nobody waits for any more.
    pub(super) given_up: BTreeSet<RequestId>,
    pub(super) next_request: u64,
}

/// How far a daemon has been told of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fed {
    /// Index of the last entry.
    pub applied: u64,
    /// What was committed when it started.
    pub behind: u64,
    /// Whether it was told that it has all of that.
    pub caught_up: bool,
    /// Whether more is on its way.
    pub coming: bool,
    /// What it was told of who leads.
    pub leadership: Leadership,
    /// Whether news of who leads is on its way.
    pub hearing: bool,
}

impl Fed {
    pub fn nothing(behind: u64) -> Fed {
        Fed {
            applied: 0,
            behind,
            caught_up: false,
            coming: false,
            leadership: Leadership::Follower { leader: None, term: 0 },
            hearing: false,
        }
    }
}

impl Host {
    pub(super) fn new(id: NodeId, machine: u64, params: &Params, clocks: &mut Rng) -> Host {
        let drift = clocks.between(0, 2 * params.drift);
        let drift =
            i64::try_from(drift).expect("small") - i64::try_from(params.drift).expect("small");
        let facts = NodeFacts {
            boot: 0,
            advertise: format!("10.0.0.{}", id.0),
            rpc: format!("10.0.0.{}:7433", id.0),
            capacity: Capacity {
                cpu: Millicores(8_000),
                memory: Bytes(16 << 30),
                ports: PortPool { first: 20_000, last: 19_999 + params.ports },
            },
            version: VERSION.to_owned(),
            supports: FeatureLevel::NEWEST,
            unrouted: None,
            mesh: None,
        };
        Host {
            id,
            machine,
            facts,
            clock: Clock::new(SimTime::default(), drift),
            engine: Engine::default(),
            gone: false,
            powered: true,
            daemon: None,
            boots: 0,
            frozen: false,
            backlog: VecDeque::new(),
            slow_disk: false,
            lags_until: SimTime::default(),
            snapshot: None,
            members: None,
            fed: Fed::nothing(0),
            had: 0,
            wake: None,
            tables: None,
            has_left_mesh: false,
            mesh: MeshEnd::default(),
            recording: None,
            waiting: BTreeMap::new(),
            given_up: BTreeSet::new(),
            next_request: 1,
        }
    }

    /// What its daemon carries traffic by, once that has said so.
    pub fn tables(&self) -> Option<&Tables> {
        let (boot, tables) = self.tables.as_ref()?;
        (*boot == self.boots).then_some(tables)
    }

    /// Whether its daemon runs, also if it is frozen.
    pub fn is_up(&self) -> bool {
        self.daemon.is_some()
    }

    /// Who votes, as far as it knows.
    pub fn voters(&self) -> Option<&BTreeSet<NodeId>> {
        self.members.as_ref().map(|(_, members)| &members.voters)
    }

    /// Whether a node votes, as far as it knows.
    pub fn votes(&self, node: NodeId) -> bool {
        self.voters().is_some_and(|voters| voters.contains(&node))
    }

    /// Whether its daemon has all that was committed before it started.
    pub fn is_caught_up(&self) -> bool {
        self.fed.caught_up
    }

    /// The last entry that its daemon has applied in this boot.
    pub fn applied(&self) -> u64 {
        self.fed.applied
    }
}
