//! What this node carries traffic by: given out whenever the state means something else.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Revision};
use crate::effect::Effect;
use crate::net::Tables;
use crate::outbox::Outbox;

/// What was given out last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Routing {
    pub published: Option<Arc<Tables>>,
    /// Since when that is what the state means.
    pub since: Revision,
    /// Whether the state changed since.
    is_stale: bool,
}

impl Default for Routing {
    fn default() -> Routing {
        Routing { published: None, since: Revision::default(), is_stale: true }
    }
}

impl Routing {
    /// The replicated state changed.
    pub fn state_changed(&mut self) {
        self.is_stale = true;
    }

    /// Gives out the tables that a state means, if they are others than before.
    pub fn publish(&mut self, cluster: &Cluster, out: &mut Outbox) {
        // Before a cluster has begun it has no addresses.
        if cluster.id.is_none() || !std::mem::take(&mut self.is_stale) {
            return;
        }
        let tables = Tables::of(cluster);
        if self.published.as_deref() == Some(&tables) {
            return;
        }
        let tables = Arc::new(tables);
        self.published = Some(tables.clone());
        self.since = cluster.revision;
        out.push(Effect::Publish { tables });
    }
}
