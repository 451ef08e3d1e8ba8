//! Who holds what is asked for: names of services, slots and allocs, and the nodes that they are
//! on, from this node's own copy of the cluster.

use std::collections::BTreeMap;

use mill_core::api::view::{AllocView, StatusView};
use mill_core::api::{Answer, ApiError, ErrorCode, Request};
use mill_core::cluster::alloc::Phase;
use mill_core::name::{AllocId, NodeId};

use super::Streams;

/// Which copy of the cluster is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// This node's own, however old.
    Own,
    /// The leader's; this node's own where nobody leads.
    Newest,
}

impl Streams {
    /// Every alloc.
    pub(super) async fn allocs(&self, copy: Copy) -> Result<Vec<AllocView>, ApiError> {
        let request = |stale| Request::Allocs { service: None, stale };
        let answer = match self.handle.ask(request(copy == Copy::Own)).await {
            Err(error) if error.code == ErrorCode::NoLeader => {
                self.handle.ask(request(true)).await?
            }
            answered => answered?,
        };
        let Answer::Allocs(views) = answer else { return Err(unexpected()) };
        Ok(views)
    }

    /// Nodes and services, from this node's own copy.
    pub(super) async fn status(&self) -> Result<StatusView, ApiError> {
        let answer = self.handle.ask(Request::Status { stale: true }).await?;
        let Answer::Status(view) = answer else { return Err(unexpected()) };
        Ok(view)
    }

    /// The nodes by their names.
    pub(super) async fn numbers(&self) -> Result<BTreeMap<String, NodeId>, ApiError> {
        let nodes = self.status().await?.nodes.into_iter();
        Ok(nodes.map(|node| (node.name, node.id)).collect())
    }
}

/// An alloc that was asked for, and who holds it.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) alloc: AllocId,
    pub(super) node: NodeId,
    /// What people call that node.
    pub(super) name: String,
    /// Whether requests may go to it.
    pub(super) is_healthy: bool,
    /// Its port, and the one that callers of its service use.
    pub(super) ports: [Option<u16>; 2],
}

impl Streams {
    /// What is called that and has not ended: healthy ones first.
    pub(super) async fn holders(&self, target: &str, copy: Copy) -> Result<Vec<Holder>, ApiError> {
        let (views, status) = (self.allocs(copy).await?, self.status().await?);
        let meant: Vec<AllocView> =
            views.into_iter().filter(|view| is_named(target, view)).collect();
        let is_service = status.services.iter().any(|service| service.name.as_str() == target);
        if meant.is_empty() && !is_service {
            let message = format!("there is no service, slot or alloc `{target}`");
            let error = ApiError::new(ErrorCode::NotFound, message);
            return Err(error.hint("`mill ps` lists what there is"));
        }
        let has_ended = meant.iter().any(|view| view.id.as_str() == target && view.phase.is_end());
        let mut found: Vec<Holder> = meant.into_iter().filter_map(|v| holder(&status, v)).collect();
        found.sort_by_key(|holder| !holder.is_healthy);
        if found.is_empty() {
            let (code, message) = match has_ended {
                true => (ErrorCode::NotFound, format!("{target} has ended")),
                false => (ErrorCode::Conflict, format!("nothing of {target} runs just now")),
            };
            return Err(ApiError::new(code, message).hint(format!("`mill why {target}` says why")));
        }
        Ok(found)
    }
}

fn holder(status: &StatusView, view: AllocView) -> Option<Holder> {
    if view.phase.is_end() {
        return None;
    }
    let node = status.nodes.iter().find(|node| node.name == view.node)?;
    let service = status.services.iter().find(|service| service.name == view.slot.service);
    Some(Holder {
        is_healthy: view.phase == Phase::Healthy && !view.stopping && node.up,
        alloc: view.id,
        node: node.id,
        name: view.node,
        ports: [view.port, service.and_then(|service| service.port)],
    })
}

/// Whether a person who writes that means this alloc.
pub(super) fn is_named(name: &str, view: &AllocView) -> bool {
    view.slot.service.as_str() == name || view.slot.to_string() == name || view.id.as_str() == name
}

fn unexpected() -> ApiError {
    ApiError::new(ErrorCode::Internal, "the node answered something else")
}
