//! The state that one machine goes on with alone.

use std::collections::BTreeMap;

use mill_core::cluster::admission::{Admission, Roles};
use mill_core::cluster::alloc::{Desired, Phase};
use mill_core::cluster::recovery::Survivor;
use mill_core::cluster::{Cluster, FeatureLevel, Refusal, Revision};
use mill_core::effect::Book;
use mill_core::name::NodeId;
use mill_core::time::{Mono, Now, Wall};
use mill_core::timing::Timing;
use mill_core::{Event, Node, NodeConfig};
use mill_sim_tests::Scenario;

use crate::WEB;

const NOW: Wall = Wall(1_000_000);

/// Three nodes with a replica each.
fn three() -> Scenario {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.run(&WEB.replace("port = 8080", "port = 8080\nreplicas = 3"));
    scenario
}

fn live_on(cluster: &Cluster) -> Vec<NodeId> {
    let live = cluster.allocs.values().filter(|alloc| alloc.is_live());
    live.map(|alloc| alloc.node).collect()
}

#[test]
fn a_survivor_keeps_what_runs_on_it_and_all_others_are_removed() {
    let scenario = three();
    let world = &scenario.world;
    let before = world.cluster();
    let (after, node) = before.recovered(NOW, &Survivor::Node(NodeId(2))).unwrap();
    assert_eq!((node, after.nodes.keys().collect::<Vec<_>>()), (NodeId(2), vec![&NodeId(2)]));
    assert_eq!(after.revision, Revision { epoch: 1, index: before.revision.index });
    assert_eq!(live_on(&after), [NodeId(2)]);
    let ended = after.allocs.values().filter(|alloc| alloc.node != NodeId(2));
    for alloc in ended {
        assert_eq!(alloc.status.phase, Phase::Stopped);
        assert!(matches!(alloc.desired, Desired::Stop { .. }));
    }
    assert!(after.tokens.is_empty() && after.intent > before.intent);
    assert_eq!(after.services, before.services, "what is wanted stays wanted");
    // Numbers go on: a node that was removed can never be taken for a new one.
    assert!(after.next_node >= before.next_node + 1_000);
}

#[test]
fn a_new_machine_goes_on_with_a_number_of_its_own_and_nothing_that_runs() {
    let scenario = three();
    let world = &scenario.world;
    let admission = Admission {
        // An old node has that name, and is gone.
        name: "m1".to_owned(),
        key: "key of the new one".to_owned(),
        roles: Roles::default(),
        labels: BTreeMap::new(),
        advertise: "192.0.2.1".to_owned(),
        rpc: "192.0.2.1:7400".to_owned(),
        version: "0.1.0".to_owned(),
        supports: FeatureLevel::NEWEST,
        mesh: None,
    };
    let survivor = Survivor::New(Box::new(admission));
    let (after, node) = world.cluster().recovered(NOW, &survivor).unwrap();
    assert_eq!((node, after.nodes.len()), (NodeId(1_004), 1));
    assert!(live_on(&after).is_empty());
    assert!(world.cluster().mesh_only && !after.mesh_only, "it is in no mesh");
    let (again, _) = after.recovered(NOW, &Survivor::Node(node)).unwrap();
    assert_eq!(again.revision.epoch, 2);
}

#[test]
fn who_is_no_node_or_may_not_lead_cannot_go_on_alone() {
    let scenario = three();
    let world = &scenario.world;
    let mut cluster = world.cluster().clone();
    let stranger = cluster.recovered(NOW, &Survivor::Node(NodeId(9))).unwrap_err();
    assert!(matches!(stranger, Refusal::Missing { .. }), "{stranger}");
    cluster.nodes.get_mut(&NodeId(2)).unwrap().roles.primary = false;
    let secondary = cluster.recovered(NOW, &Survivor::Node(NodeId(2))).unwrap_err();
    assert!(secondary.to_string().contains("cannot lead"), "{secondary}");
}

#[test]
fn a_node_takes_the_epoch_from_the_state_and_knows_who_was_removed() {
    let scenario = three();
    let world = &scenario.world;
    let (after, _) = world.cluster().recovered(NOW, &Survivor::Node(NodeId(2))).unwrap();
    let start = |node: u64| {
        let facts = world.host(NodeId(node)).facts.clone();
        let config = NodeConfig {
            id: NodeId(node),
            cluster: "sim".to_owned(),
            founder: None,
            facts,
            timing: Timing::default(),
            book: Some(Default::default()),
        };
        let now = Now { mono: Mono(0), wall: NOW };
        let mut node = Node::new(config, 1, now);
        // The log counts indices and knows no epochs.
        let at = Revision { epoch: 0, index: after.revision.index };
        node.handle(now, Event::Restored { at, bytes: after.encode() });
        let effects: Vec<_> = std::iter::from_fn(|| node.poll_effect()).collect();
        let retires = effects.iter().any(|effect| matches!(effect, mill_core::Effect::Retire));
        (node.cluster().revision, retires)
    };
    assert_eq!(start(2), (after.revision, false));
    assert_eq!(start(3), (after.revision, true));
}

#[test]
fn a_node_without_an_address_book_takes_what_its_own_log_says_until_it_knows_better() {
    let scenario = three();
    let world = &scenario.world;
    let has = Book { mesh_only: true, ..Book::default() };
    let given_out = |book: Option<Book>| {
        let config = NodeConfig {
            id: NodeId(2),
            cluster: "sim".to_owned(),
            founder: None,
            facts: world.host(NodeId(2)).facts.clone(),
            timing: Timing::default(),
            book,
        };
        let now = Now { mono: Mono(0), wall: NOW };
        let mut node = Node::new(config, 1, now);
        let at = world.cluster().revision;
        node.handle(now, Event::Restored { at, bytes: world.cluster().encode() });
        node.handle(now, Event::CaughtUp);
        let effects = std::iter::from_fn(move || node.poll_effect());
        let books = effects.filter_map(|effect| match effect {
            mill_core::Effect::Peers { book, current } => Some((book.peers.len(), current)),
            _ => None,
        });
        books.collect::<Vec<_>>()
    };
    assert_eq!(given_out(Some(has)), [(3, true)], "the one that it has is as good or better");
    assert_eq!(given_out(None), [(3, false), (3, true)]);
}
