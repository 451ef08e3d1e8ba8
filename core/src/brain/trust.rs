//! Nodes that come and go: who came back too often gets nothing new until it stayed up for a while.
//!
//! How often a node came back is replicated; for how long it has stayed up is the leader's own
//! observation, by its own clock. A new leader begins to watch anew, so that trust may come later
//! at failover and never sooner. What runs on a watched node goes on running.

use super::{Brain, Draft};
use crate::cluster::Cluster;
use crate::cluster::command::Command;
use crate::cluster::node::{NodeRecord, RETURNS_BEFORE_WATCHED, Trust};
use crate::name::NodeId;
use crate::node::Wake;
use crate::scheduler::Candidate;
use crate::time::Mono;
use crate::units::Millis;

/// For how long a node is watched that came back just too often; doubled with every return.
const WATCHED_FIRST: Millis = Millis::secs(30);
/// For how long it is watched at most.
const WATCHED_LONGEST: Millis = Millis::mins(10);
/// Who stayed up for this long has its returns forgotten.
const FORGOTTEN_AFTER: Millis = Millis::mins(10);

impl Brain {
    /// Takes note that a node is up and heard; trusts it again if it has been for long enough.
    pub(super) fn watch(&mut self, draft: &mut Draft<'_>, node: NodeId, record: &NodeRecord) {
        let now = draft.now.mono;
        let since = *self.up_since.entry(node).or_insert(now);
        match record.trust {
            Trust::Full => {}
            Trust::Watched => {
                let until = since + watched_for(record.returns);
                if until > now {
                    draft.wake_at(until, Wake::Trusted);
                } else {
                    draft.commands.push(Command::Trust { node, returns: record.returns });
                }
            }
        }
    }

    /// Forgets the returns of nodes that stayed up. It goes with what is written anyway: an idle
    /// cluster writes nothing.
    pub(super) fn forgiven(&self, now: Mono, cluster: &Cluster) -> Vec<Command> {
        let stayed =
            self.up_since.iter().filter(|(_, since)| now.since(**since) >= FORGOTTEN_AFTER);
        let returned = stayed.filter(|(node, _)| {
            let record = cluster.nodes.get(node);
            record.is_some_and(|record| record.is_up() && record.returns > 0)
        });
        returned.map(|(node, _)| Command::Trust { node: *node, returns: 0 }).collect()
    }

    /// In how long a node that is watched is trusted again, if it stays.
    fn trusted_in(&self, now: Mono, node: NodeId, returns: u32) -> Option<Millis> {
        let until = *self.up_since.get(&node)? + watched_for(returns);
        Some(until.since(now))
    }

    /// Tells candidates how long they are watched yet.
    pub(super) fn tell_watched(&self, now: Mono, nodes: &mut [Candidate]) {
        for node in nodes {
            if let Some(watched) = &mut node.watched {
                watched.left = self.trusted_in(now, node.id, watched.returns);
            }
        }
    }
}

fn watched_for(returns: u32) -> Millis {
    let doublings = returns.saturating_sub(RETURNS_BEFORE_WATCHED).min(16);
    Millis(WATCHED_FIRST.0 << doublings).min(WATCHED_LONGEST)
}
