//! Where requests from outside come in.
//!
//! The routes of a service are those of the version that it runs, and change all at once, when
//! everything new of a deploy is there: a host that moves from one service to another is never
//! without one that answers, and a deploy that goes back has changed no route.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::cluster::deploy::{DeployState, Version};
use crate::config::model::{RouteMatch, RouteSpec};
use crate::mutant::{self, Mutant};
use crate::name::Name;

/// A route in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Which service answers.
    pub service: Name,
    /// What it takes, and how.
    pub spec: RouteSpec,
}

impl RouteMatch {
    /// What it takes, as people write it: `shop.example.com/api`, `port 5432`.
    pub fn sentence(&self) -> String {
        match self {
            RouteMatch::Http { host, path } => format!("{host}{path}"),
            RouteMatch::Tcp { listen, host: None } => format!("port {listen}"),
            RouteMatch::Tcp { listen, host: Some(host) } => format!("{host}, port {listen}"),
        }
    }

    /// Whether both would take the same requests or connections.
    pub fn clashes_with(&self, other: &RouteMatch) -> bool {
        match (self, other) {
            (RouteMatch::Tcp { listen, host }, RouteMatch::Tcp { listen: taken, host: named }) => {
                listen == taken && (host == named || host.is_none() || named.is_none())
            }
            (RouteMatch::Http { .. }, RouteMatch::Http { .. }) => self == other,
            (RouteMatch::Http { .. }, RouteMatch::Tcp { .. })
            | (RouteMatch::Tcp { .. }, RouteMatch::Http { .. }) => false,
        }
    }
}

impl Cluster {
    /// The version whose routes are in force; `None` while none is.
    pub fn routed_version(&self, name: &Name) -> Option<&Version> {
        let service = self.services.get(name)?;
        let change = self.running_deploy().and_then(|(_, deploy)| match deploy.state {
            DeployState::Removing => deploy.changes.get(name),
            DeployState::Resolving
            | DeployState::Rolling
            | DeployState::Succeeded
            | DeployState::Partial { .. }
            | DeployState::RollingBack { .. }
            | DeployState::RolledBack { .. }
            | DeployState::RollbackStuck { .. } => None,
        });
        if mutant::is(Mutant::RoutedTooEarly) {
            return service.target().map(|(_, version)| version);
        }
        let number = change.map_or(service.stable, |change| change.goal())?;
        service.versions.get(&number)
    }

    /// Every route in force, in the order of what they take. Of two that take the same, which a
    /// plan refuses, the first by the name of its service counts.
    pub fn routes(&self) -> Vec<RouteTable> {
        let mut routes: BTreeMap<&RouteMatch, RouteTable> = BTreeMap::new();
        for name in self.services.keys() {
            let specs = self.routed_version(name).map(|version| &version.spec.routes);
            for spec in specs.into_iter().flatten() {
                let route = || RouteTable { service: name.clone(), spec: spec.clone() };
                routes.entry(&spec.accept).or_insert_with(route);
            }
        }
        routes.into_values().collect()
    }
}
