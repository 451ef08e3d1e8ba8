//! Who holds what is asked for: names of services, slots and allocs, and the nodes that they are
//! on, from this node's own copy of the cluster.

use std::collections::BTreeMap;

use mill_core::api::view::{AllocView, StatusView};
use mill_core::api::{Answer, ApiError, ErrorCode, Request};
use mill_core::name::NodeId;

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
        match answer {
            Answer::Allocs(views) => Ok(views),
            _ => Err(unexpected()),
        }
    }

    /// Nodes and services, from this node's own copy.
    pub(super) async fn status(&self) -> Result<StatusView, ApiError> {
        match self.handle.ask(Request::Status { stale: true }).await? {
            Answer::Status(view) => Ok(view),
            _ => Err(unexpected()),
        }
    }

    /// The nodes by their names.
    pub(super) async fn numbers(&self) -> Result<BTreeMap<String, NodeId>, ApiError> {
        let nodes = self.status().await?.nodes.into_iter();
        Ok(nodes.map(|node| (node.name, node.id)).collect())
    }
}

/// Whether a person who writes that means this alloc.
pub(super) fn is_named(name: &str, view: &AllocView) -> bool {
    view.slot.service.as_str() == name || view.slot.to_string() == name || view.id.as_str() == name
}

fn unexpected() -> ApiError {
    ApiError::new(ErrorCode::Internal, "the node answered something else")
}
