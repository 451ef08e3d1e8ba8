//! Which certificates every node shows, and what it answers an authority.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::acme::Challenge;
use crate::cluster::Cluster;
use crate::cluster::certificates::Issued;

/// A certificate to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// For these names: `shop.example.com`, `*.example.com`.
    pub names: Vec<String>,
    /// It and its key.
    pub issued: Arc<Issued>,
    /// Also to clients that name no host, or an unknown one.
    #[serde(default)]
    pub default: bool,
}

impl Cluster {
    /// What is shown: what people imported, and what was ordered for the other hosts.
    pub(super) fn shown(&self) -> Vec<Shown> {
        let imported = self.certificates.imported.values().map(|imported| Shown {
            names: imported.names.clone(),
            issued: imported.issued.clone(),
            default: imported.default,
        });
        let ordered = self.wants_certificates().into_iter().filter_map(|host| {
            let issued = self.certificates.ordered.get(&host)?.issued.clone()?;
            Some(Shown { names: vec![host], issued, default: false })
        });
        imported.chain(ordered).collect()
    }

    /// What every node answers while orders are under way.
    pub(super) fn challenges(&self) -> Vec<Challenge> {
        let wanted = self.wants_certificates();
        let ordered = self.certificates.ordered.iter().filter(|(name, _)| wanted.contains(*name));
        let orders = ordered.filter_map(|(_, known)| known.order.as_ref());
        orders.flat_map(|order| order.challenges.clone()).collect()
    }
}
