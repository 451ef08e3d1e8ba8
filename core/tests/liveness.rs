//! What a leader makes of silence when it was itself that stood still. All else that it makes of
//! silence is told in `sim-tests/tests/scenarios/gray.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use mill_core::cluster::admission::{Admission, Roles};
use mill_core::cluster::command::{Command, Entry, ProposalId};
use mill_core::cluster::node::{Capacity, NodeFacts, PortPool};
use mill_core::cluster::{FeatureLevel, Revision};
use mill_core::event::Leadership;
use mill_core::message::Message;
use mill_core::name::NodeId;
use mill_core::node::Founder;
use mill_core::time::{Mono, Now, Wall};
use mill_core::timing::Timing;
use mill_core::units::{Bytes, Millicores, Millis};
use mill_core::{Effect, Event, Node, NodeConfig};

const OTHER: NodeId = NodeId(2);

fn facts() -> NodeFacts {
    NodeFacts {
        boot: 1,
        advertise: "10.0.0.1".to_owned(),
        rpc: "10.0.0.1:7000".to_owned(),
        capacity: Capacity {
            cpu: Millicores(1_000),
            memory: Bytes(1 << 30),
            ports: PortPool::default(),
        },
        version: "0.1.0".to_owned(),
        supports: FeatureLevel::NEWEST,
    }
}

/// A leader whose every proposal is committed at once.
struct Leader {
    node: Node,
    now: Now,
    log: u64,
    said: u64,
}

impl Leader {
    fn new() -> Leader {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(0) };
        let timing = Timing::default();
        let (id, cluster) = (NodeId(1), "c".to_owned());
        let founder = Some(Founder {
            name: "a".to_owned(),
            key: "a".to_owned(),
            roles: Roles::default(),
            labels: BTreeMap::new(),
        });
        let config = NodeConfig { id, cluster, founder, facts: facts(), timing };
        let mut leader = Leader { node: Node::new(config, 1, now), now, log: 0, said: 0 };
        leader.handle(Event::CaughtUp);
        leader.handle(Event::Leadership(Leadership::Leader { term: 1 }));
        leader.admits_the_other();
        leader
    }

    fn handle(&mut self, event: Event) {
        self.node.handle(self.now, event);
        let mut proposed = Vec::new();
        while let Some(effect) = self.node.poll_effect() {
            if let Effect::Propose { entry } = effect {
                proposed.push(Arc::from(entry));
            }
        }
        for entry in proposed {
            self.log += 1;
            let at = Revision { epoch: 0, index: self.log };
            self.handle(Event::Committed { at, entry });
        }
    }

    /// Somebody else's entry: the other node is a member.
    fn admits_the_other(&mut self) {
        let admission = Box::new(Admission {
            name: "b".to_owned(),
            key: "b".to_owned(),
            roles: Roles::default(),
            labels: BTreeMap::new(),
            advertise: "10.0.0.1".to_owned(),
            rpc: "10.0.0.1:7000".to_owned(),
            version: "0.1.0".to_owned(),
            supports: FeatureLevel::NEWEST,
        });
        let id = ProposalId { node: NodeId(9), boot: 1, seq: 1 };
        let commands = vec![Command::AdmitNode { admission, token: None }];
        self.log += 1;
        let at = Revision { epoch: 0, index: self.log };
        let entry = Arc::new(Entry { id, wall: Wall(0), membership: None, commands });
        self.handle(Event::Committed { at, entry });
    }

    /// The other node says that it is there.
    fn hears_the_other(&mut self) {
        self.said += 1;
        let message = Message::Heartbeat {
            seq: self.said,
            revision: Revision { epoch: 0, index: self.log },
            facts: Box::new(facts()),
            trouble: None,
            reports: BTreeMap::new(),
            images: BTreeMap::new(),
        };
        self.handle(Event::Message { from: OTHER, message });
    }

    fn after(&mut self, length: Millis) {
        self.now.mono = self.now.mono + length;
        self.handle(Event::Wake);
    }

    fn thinks_it_up(&self) -> bool {
        self.node.cluster().is_up(OTHER)
    }
}

#[test]
fn a_leader_that_stood_still_gives_everybody_a_full_window_anew() {
    let mut leader = Leader::new();
    leader.hears_the_other();
    assert!(leader.thinks_it_up());
    // What was said meanwhile waits behind the call that wakes it.
    leader.after(Millis::secs(20));
    assert!(leader.thinks_it_up());
    for _ in 0..7 {
        leader.after(Millis::secs(1));
    }
    assert!(leader.thinks_it_up());
    leader.after(Millis::secs(1));
    assert!(!leader.thinks_it_up());
    leader.hears_the_other();
    assert!(leader.thinks_it_up());
}

#[test]
fn a_leader_that_looks_all_the_time_calls_a_node_down_after_one_window() {
    let mut leader = Leader::new();
    leader.hears_the_other();
    for _ in 0..7 {
        leader.after(Millis::secs(1));
    }
    assert!(leader.thinks_it_up());
    leader.after(Millis::secs(1));
    assert!(!leader.thinks_it_up());
}
