//! A leader of two nodes, told by hand what happens.

#![allow(dead_code, reason = "each test file uses what it needs")]

use std::collections::BTreeMap;
use std::sync::Arc;

use mill_core::api::{Request, RequestId};
use mill_core::cluster::admission::{Admission, Roles};
use mill_core::cluster::command::{Command, Entry, ProposalId};
use mill_core::cluster::node::{Capacity, NodeFacts, PortPool};
use mill_core::cluster::{FeatureLevel, Revision};
use mill_core::event::{Leadership, Origin};
use mill_core::message::Message;
use mill_core::name::NodeId;
use mill_core::net::Network;
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
        unrouted: None,
        mesh: None,
    }
}

/// A leader whose every proposal is committed at once.
pub struct Leader {
    node: Node,
    now: Now,
    log: u64,
    said: u64,
}

impl Leader {
    pub fn new() -> Leader {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(0) };
        let timing = Timing::default();
        let (id, cluster) = (NodeId(1), "c".to_owned());
        let founder = Some(Founder {
            name: "a".to_owned(),
            key: "a".to_owned(),
            roles: Roles::default(),
            labels: BTreeMap::new(),
            network: Network::default(),
        });
        let config = NodeConfig {
            id,
            cluster,
            founder,
            facts: facts(),
            timing,
            book: Some(Default::default()),
        };
        let mut leader = Leader { node: Node::new(config, 1, now), now, log: 0, said: 0 };
        leader.handle(Event::CaughtUp);
        leader.handle(Event::Leadership(Leadership::Leader { term: 1 }));
        leader.admits_the_other();
        leader
    }

    pub fn handle(&mut self, event: Event) {
        for effect in self.effects(event) {
            let Effect::Propose { entry } = effect else { continue };
            self.log += 1;
            let at = Revision { epoch: 0, index: self.log };
            self.handle(Event::Committed { at, entry: entry.into() });
        }
    }

    /// What a request makes it do at first.
    pub fn asked(&mut self, request: Request) -> Vec<Effect> {
        let (id, origin) = (RequestId(1), Origin::Client);
        self.effects(Event::Request { id, request, origin })
    }

    /// What follows from an event at once.
    pub fn effects(&mut self, event: Event) -> Vec<Effect> {
        self.node.handle(self.now, event);
        std::iter::from_fn(|| self.node.poll_effect()).collect()
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
            mesh: None,
        });
        let id = ProposalId { node: NodeId(9), boot: 1, seq: 1 };
        let commands = vec![Command::AdmitNode { admission, token: None }];
        self.log += 1;
        let at = Revision { epoch: 0, index: self.log };
        let entry = Arc::new(Entry { id, wall: Wall(0), intent: None, commands });
        self.handle(Event::Committed { at, entry });
    }

    /// The other node says that it is there.
    pub fn hears_the_other(&mut self) {
        self.said += 1;
        let message = Message::Heartbeat {
            seq: self.said,
            revision: Revision { epoch: 0, index: self.log },
            facts: Box::new(facts()),
            trouble: None,
            reports: BTreeMap::new(),
            images: BTreeMap::new(),
            met: Default::default(),
        };
        self.handle(Event::Message { from: OTHER, message });
    }

    pub fn after(&mut self, length: Millis) {
        self.now.mono = self.now.mono + length;
        self.handle(Event::Wake);
    }

    pub fn thinks_it_up(&self) -> bool {
        self.node.cluster().is_up(OTHER)
    }
}
