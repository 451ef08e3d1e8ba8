//! An authority is told to look only when every node that is up answers it; no name fails to be
//! proven more often than an authority allows; none is ordered again and again; and what is kept
//! fits together.

use std::collections::BTreeMap;
use std::sync::Arc;

use mill_core::Effect;
use mill_core::acme::AcmeOp;
use mill_core::cluster::Cluster;
use mill_core::cluster::certificates::CertificateChange;
use mill_core::cluster::command::{Command, Entry};
use mill_core::name::NodeId;
use mill_core::net::Tables;

use super::{Invariant, Moment};
use crate::time::{NANOS_PER_MILLI, SimTime};
use crate::world::host::Host;

/// Let's Encrypt: failed validations of a name in an hour.
const FAILED_IN_AN_HOUR: usize = 5;
const HOUR_MILLIS: u64 = 3_600_000;
/// A third of its life is left to each: three in one life, and a few for leaders with other clocks.
const ISSUED_IN_A_LIFE: usize = 8;

#[derive(Default)]
pub(super) struct Certificates {
    /// With the boot that said so.
    carries: BTreeMap<NodeId, (u64, Arc<Tables>)>,
    failed: BTreeMap<String, Vec<SimTime>>,
    /// By the authority's clock, in milliseconds.
    issued: BTreeMap<String, Vec<u64>>,
}

impl Invariant for Certificates {
    fn name(&self) -> &'static str {
        "certificates"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Effect { host, effect: Effect::Publish { tables }, .. } => {
                self.carries.insert(host.id, (host.boots, tables.clone()));
                Ok(())
            }
            Moment::Effect { host, effect: Effect::Acme { op, .. }, .. } => self.asks(host, op),
            Moment::Validation { now, name, proven: false } => self.fails(*now, name),
            Moment::Committed { entry, after, .. } => self.comes(entry, after),
            Moment::Effect { .. } | Moment::Heard { .. } | Moment::Agreed { .. } => Ok(()),
            Moment::State { .. } | Moment::Belief { .. } | Moment::Unanswered { .. } => Ok(()),
            Moment::Answer { .. } | Moment::Host { .. } | Moment::Validation { .. } => Ok(()),
        }
    }
}

impl Certificates {
    /// By the leader's own word, every node that is up answers; one that has just started says
    /// nothing yet.
    fn asks(&self, host: &Host, op: &AcmeOp) -> Result<(), String> {
        let AcmeOp::Complete { url, name, .. } = op else { return Ok(()) };
        let Some(state) = host.daemon.as_ref().map(|daemon| daemon.cluster()) else {
            return Ok(());
        };
        let order = state.certificates.ordered.get(name).and_then(|known| known.order.as_ref());
        let Some(order) = order.filter(|order| order.url == *url) else {
            return Err(format!("{} goes on with {url}, which is not under way", host.id));
        };
        for (node, _) in state.nodes.iter().filter(|(_, record)| record.is_up()) {
            let Some((_, tables)) = self.carries.get(node) else { continue };
            if !order.challenges.iter().all(|challenge| tables.challenges.contains(challenge)) {
                return Err(format!("{url} is to be looked at, and {node} does not answer it"));
            }
        }
        Ok(())
    }

    fn fails(&mut self, now: SimTime, name: &str) -> Result<(), String> {
        let failed = self.failed.entry(name.to_owned()).or_default();
        failed.retain(|at| (now.0 - at.0) / NANOS_PER_MILLI < HOUR_MILLIS);
        failed.push(now);
        match failed.len() > FAILED_IN_AN_HOUR {
            true => Err(format!("{name} was not proven {} times in an hour", failed.len())),
            false => Ok(()),
        }
    }

    fn comes(&mut self, entry: &Entry, after: &Cluster) -> Result<(), String> {
        for command in &entry.commands {
            let Command::Certificates(CertificateChange::Issue { name, chain, .. }) = command
            else {
                continue;
            };
            let known = after.certificates.ordered.get(name);
            let issued = known.and_then(|known| known.issued.as_ref());
            let Some(issued) = issued.filter(|issued| issued.chain == *chain) else { continue };
            if !issued.chain.ends_with(issued.key.text()) {
                return Err(format!("{name} has a certificate for another key: {chain}"));
            }
            let life = issued.not_after.0 - issued.not_before.0;
            let before = self.issued.entry(name.clone()).or_default();
            before.retain(|at| at + life > issued.not_before.0);
            before.push(issued.not_before.0);
            if before.len() > ISSUED_IN_A_LIFE {
                return Err(format!("{name} got {} certificates in one life", before.len()));
            }
        }
        Ok(())
    }
}
