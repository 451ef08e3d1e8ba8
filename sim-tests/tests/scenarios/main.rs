//! Single stories, told step by step: what happens to containers, deploys and nodes.

mod canaries;
mod certificates;
mod containers;
mod deploys;
mod drains;
mod engines;
mod forwarding;
mod gates;
mod gray;
mod images;
mod keep_going;
mod members;
mod mesh;
mod names;
mod nodes;
mod past;
mod ports;
mod recordings;
mod recovery;
mod returns;
mod routes;
mod schedules;
mod stops;
mod tasks;
mod upgrades;

use mill_core::name::NodeId;
use mill_runtime_sim::Fault;

/// A service with one replica and an http health check.
pub const WEB: &str = "
[service.web]
image = \"web:1\"
port = 8080
[service.web.health]
path = \"/\"
";

/// Nothing gets through between this node and the others.
pub fn alone(node: NodeId, nodes: u64) -> Fault {
    let others = (1..=nodes).map(NodeId).filter(|other| *other != node);
    Fault::Blocked(others.flat_map(|other| [(node, other), (other, node)]).collect())
}
