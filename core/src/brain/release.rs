//! What leaves the routes is asked to stop once every node that is up has said that it sends nothing
//! to it any more: a barrier, and never a wait of so many seconds. Callers that are no nodes, and may
//! remember an answer, are waited for by its own node (`agent/drain.rs`). The same word of all nodes
//! says that requests come to what a deploy brought. A port that was given up goes to another service
//! once every member has said so, those too that were down.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::{Blocked, Brain, Draft};
use crate::cluster::command::Command;
use crate::cluster::deploy::Deploy;
use crate::cluster::{Cluster, Revision};
use crate::mutant::{self, Mutant};
use crate::name::NodeId;
use crate::net::Tables;

impl Brain {
    /// Releases what every node that is up has let go of, and frees ports that all members have.
    pub(super) fn release(&mut self, draft: &mut Draft<'_>) {
        let cluster = draft.cluster;
        let leaving = cluster.allocs.iter().filter_map(|(id, alloc)| {
            let since = alloc.awaits_release()?;
            Some((id, since))
        });
        let leaving: Vec<_> = leaving.collect();
        let resting = cluster.resting.values().flat_map(|ports| ports.values());
        let resting: BTreeSet<_> = resting.map(|resting| resting.since).collect();
        self.awaited = leaving.iter().map(|(_, since)| *since).chain(resting.clone()).collect();
        let followed = self.followed_by_all(cluster);
        let until = followed.and_then(|all| resting.range(..=all).next_back());
        draft.commands.extend(until.map(|until| Command::FreePorts { until: *until }));
        for (alloc, since) in leaving {
            if self.holders(cluster, since).is_empty() {
                let up = cluster.nodes.iter().filter(|(_, record)| record.is_up());
                let by = up.map(|(node, _)| *node).collect();
                draft.commands.push(Command::Release { alloc: alloc.clone(), by });
            }
        }
    }

    /// Nodes that are up and may still send something to what left the routes then.
    pub fn holders(&self, cluster: &Cluster, since: Revision) -> BTreeSet<NodeId> {
        if mutant::is(Mutant::ReleasedUnheard) {
            return BTreeSet::new();
        }
        let up = cluster.nodes.iter().filter(|(_, record)| record.is_up()).map(|(node, _)| *node);
        let holds = |node: &NodeId| self.heard.get(node).is_none_or(|h| h.revision < since);
        up.filter(holds).collect()
    }

    /// What every member, up or not, has said that it carries traffic by; none if one may carry it by
    /// anything.
    fn followed_by_all(&self, cluster: &Cluster) -> Option<Revision> {
        let said = cluster.nodes.iter().map(|(node, record)| {
            let heard = self.heard.get(node).filter(|_| record.is_up());
            heard.map(|heard| heard.revision)
        });
        said.min().flatten()
    }

    /// Whether every node that is up sends requests where the state says, and has said so: a deploy
    /// is not done before that.
    pub(super) fn is_routed(&mut self, draft: &Draft<'_>, deploy: &Deploy) -> bool {
        let since = draft.routing.since;
        self.awaited.insert(since);
        let holders = self.holders(draft.cluster, since);
        let meant = Tables::of(draft.cluster);
        let published = draft.routing.published.as_ref();
        let mine = published.is_some_and(|published| published.leads_as(&meant));
        if !holders.is_empty() {
            let named = |node: &NodeId| Some(draft.cluster.nodes.get(node)?.name.clone());
            let nodes: Vec<String> = holders.iter().filter_map(named).collect();
            for name in deploy.changes.keys() {
                let blocked = self.blocked.entry(name.clone()).or_default();
                blocked.push(Blocked::Unrouted { nodes: nodes.clone() });
            }
        }
        mine && holders.is_empty() || mutant::is(Mutant::DoneUnrouted)
    }

    /// Whether a node has let go of something by applying what is between those.
    pub(super) fn is_awaited(&self, before: Option<Revision>, now: Revision) -> bool {
        let after = before.map_or(Bound::Unbounded, Bound::Excluded);
        before.is_none_or(|before| before < now)
            && self.awaited.range((after, Bound::Included(now))).next().is_some()
    }
}
