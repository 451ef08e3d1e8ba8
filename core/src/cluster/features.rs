//! The feature level: which rules commands are applied by, while programs of two versions share one
//! cluster.
//!
//! `apply` may branch on [`Cluster::features`] and never on what the program itself can do, so that
//! every node comes to the same state. The level is raised by a command, once every member's
//! program supports the next, and never lowered. A program that finds a level above its own stops:
//! it could not know what it applies. Before the first release there is one level, which changes as
//! the program does. Tested below and in `sim-tests/tests/scenarios/upgrades.rs`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::apply::stale;
use super::{Cluster, Refusal, Reply};
use crate::time::Wall;

/// A set of rules, counted up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeatureLevel(pub u32);

impl FeatureLevel {
    /// Where every cluster begins.
    pub const FIRST: FeatureLevel = FeatureLevel(1);
    /// The highest that this program supports.
    pub const NEWEST: FeatureLevel = FeatureLevel::FIRST;
    /// One that no program that ships supports, so that raising can be rehearsed before there is
    /// a second: it remembers less of what happened.
    pub const REHEARSAL: FeatureLevel = FeatureLevel(2);
}

/// Events that are kept at [`FeatureLevel::REHEARSAL`].
pub const EVENTS_KEPT_IN_REHEARSAL: usize = 20;

impl Default for FeatureLevel {
    fn default() -> FeatureLevel {
        FeatureLevel::FIRST
    }
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Cluster {
    /// The highest level that every member's program supports.
    pub fn supported_by_all(&self) -> FeatureLevel {
        let levels = self.nodes.values().map(|record| record.facts.supports);
        levels.min().unwrap_or(self.features)
    }

    /// Whether a program of that level can apply what comes.
    pub(super) fn is_known_to(&self, supports: FeatureLevel) -> Result<(), Refusal> {
        match supports >= self.features {
            true => Ok(()),
            false => Err(Refusal::TooOld { supports, level: self.features }),
        }
    }

    pub(super) fn raise_features(
        &mut self,
        wall: Wall,
        to: FeatureLevel,
    ) -> Result<Reply, Refusal> {
        if to <= self.features {
            return Err(stale(format!("the feature level is {} already", self.features)));
        }
        if let Some(record) = self.nodes.values().find(|record| record.facts.supports < to) {
            let (name, supports) = (&record.name, record.facts.supports);
            return Err(stale(format!(
                "the mill of node {name} supports feature level {supports}"
            )));
        }
        self.features = to;
        let text = format!("every node supports feature level {to}: it is used from now on");
        self.history.record(wall, "features", text);
        Ok(Reply::Done)
    }

    /// What differs by level after each entry.
    pub(super) fn keep_by_level(&mut self) {
        if self.features >= FeatureLevel::REHEARSAL {
            self.history.keep(EVENTS_KEPT_IN_REHEARSAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cluster::Revision;
    use crate::cluster::admission::{Admission, Roles};
    use crate::cluster::command::{Command, Entry, ProposalId};
    use crate::name::NodeId;
    use crate::net::Network;

    fn apply(cluster: &mut Cluster, command: Command) -> Result<Reply, Refusal> {
        let at = Revision { epoch: 0, index: cluster.revision.index + 1 };
        let id = ProposalId { node: NodeId(1), boot: 1, seq: at.index };
        let entry = Entry { id, wall: Wall(0), intent: None, commands: vec![command] };
        cluster.apply(at, &entry).remove(0)
    }

    fn admission(name: &str, supports: FeatureLevel) -> Box<Admission> {
        Box::new(Admission {
            name: name.to_owned(),
            key: format!("key of {name}"),
            roles: Roles::default(),
            labels: BTreeMap::new(),
            advertise: "192.0.2.1".to_owned(),
            rpc: "192.0.2.1:7433".to_owned(),
            version: "0.1.0".to_owned(),
            supports,
            mesh: None,
        })
    }

    fn begun(supports: FeatureLevel) -> Cluster {
        let mut cluster = Cluster::default();
        let first = admission("a", supports);
        let (cluster_id, node, network) = ("c".to_owned(), NodeId(1), Network::default());
        let found = Command::Found { cluster: cluster_id, node, first, network };
        assert!(apply(&mut cluster, found).is_ok());
        cluster
    }

    #[test]
    fn a_cluster_begins_at_the_first_level() {
        assert_eq!(begun(FeatureLevel::REHEARSAL).features, FeatureLevel::FIRST);
    }

    #[test]
    fn the_level_is_raised_when_every_member_supports_the_next_and_never_lowered() {
        let mut cluster = begun(FeatureLevel::REHEARSAL);
        let (old, raise) = (admission("b", FeatureLevel::FIRST), FeatureLevel::REHEARSAL);
        let raise =
            |to| Command::RaiseFeatures { to: if to > 1 { raise } else { FeatureLevel(to) } };
        assert!(apply(&mut cluster, Command::AdmitNode { admission: old, token: None }).is_ok());
        let refused = apply(&mut cluster, raise(2)).unwrap_err();
        assert_eq!(refused.to_string(), "the mill of node b supports feature level 1");
        assert!(apply(&mut cluster, Command::RemoveNode { node: NodeId(2), force: true }).is_ok());
        assert!(apply(&mut cluster, raise(2)).is_ok());
        assert_eq!(cluster.features, FeatureLevel::REHEARSAL);
        assert!(apply(&mut cluster, raise(1)).is_err());
    }

    #[test]
    fn a_machine_with_a_program_that_is_too_old_is_not_admitted() {
        let mut cluster = begun(FeatureLevel::REHEARSAL);
        let to = FeatureLevel::REHEARSAL;
        assert!(apply(&mut cluster, Command::RaiseFeatures { to }).is_ok());
        let old = admission("b", FeatureLevel::FIRST);
        let refused = apply(&mut cluster, Command::AdmitNode { admission: old, token: None });
        let level = FeatureLevel::REHEARSAL;
        assert_eq!(refused, Err(Refusal::TooOld { supports: FeatureLevel::FIRST, level }));
    }
}
