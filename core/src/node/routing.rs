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
    /// Since when that is what the state means, as far as it says where requests go.
    pub since: Revision,
    /// The same of all that is in it: also of certificates, and of what authorities are answered.
    pub whole_since: Revision,
    /// Whether the state changed since.
    is_stale: bool,
}

impl Default for Routing {
    fn default() -> Routing {
        let since = Revision::default();
        Routing { published: None, since, whole_since: since, is_stale: true }
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
        if self.published.as_ref().is_none_or(|before| !before.leads_as(&tables)) {
            self.since = cluster.revision;
        }
        self.whole_since = cluster.revision;
        let tables = Arc::new(tables);
        self.published = Some(tables.clone());
        out.push(Effect::Publish { tables });
    }
}
