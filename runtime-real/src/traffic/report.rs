//! How names are on this node, for people and programs.

use std::net::IpAddr;

use mill_core::name::NodeId;
use mill_core::net::{Tables, ZONE};
use mill_traffic::{Examined, Traffic};
use serde::{Deserialize, Serialize};

/// What `/v1/names` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamesReport {
    /// It has no name server yet.
    Starting,
    /// It has none, and why.
    Missing(String),
    /// It has none: containers are told what there is when they are made.
    Told,
    /// It has one.
    Serving(Serving),
}

/// How a name server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Where containers ask.
    pub resolver: IpAddr,
    /// Whether services have IPv6 addresses on this node.
    pub has_ipv6: bool,
    /// The name of the cluster's that was asked for.
    pub asked: String,
    /// Why there was no good answer, if there was none.
    pub own_trouble: Option<String>,
    /// The host's resolvers.
    pub others: Vec<IpAddr>,
    /// Why none of them answered, if none did.
    pub others_trouble: Option<String>,
}

/// Asks the name server for this node, and the host's resolvers.
pub(super) async fn report(node: NodeId, tables: &Tables, traffic: &Traffic) -> NamesReport {
    let name = tables.nodes.get(&node).map(|node| node.name.to_ascii_lowercase());
    let asked = name.map_or_else(|| ZONE.to_owned(), |name| format!("{name}.node.{ZONE}"));
    let examined = traffic.examine(&format!("{asked}.")).await;
    let (Some(resolver), Some(examined)) = (traffic.resolver(), examined) else {
        return NamesReport::Told;
    };
    let Examined { own, resolvers, others } = examined;
    NamesReport::Serving(Serving {
        resolver,
        has_ipv6: traffic.has_ipv6(),
        asked,
        own_trouble: own.err(),
        others: resolvers,
        others_trouble: others.err(),
    })
}
