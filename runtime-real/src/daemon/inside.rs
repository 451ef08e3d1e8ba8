//! The daemon inside the mesh: with which key, and where other nodes come in there.

use std::net::{IpAddr, SocketAddr};

use mill_core::effect::Book;
use tokio::task::JoinHandle;

use super::door::Door;
use super::{StartError, calls};
use crate::mesh::{End, MeshKey};
use crate::rpc::Server;

/// The key for the mesh, or why this node is not in it. Where nodes speak through nothing else, one
/// without would reach nobody.
pub(super) fn key(
    key: Option<MeshKey>,
    door: &Door,
    book: Option<&Book>,
) -> Result<Result<MeshKey, String>, StartError> {
    let why = door.mesh.as_ref().err().cloned().unwrap_or_default();
    match key {
        Some(key) => Ok(Ok(key)),
        None if book.is_some_and(|book| book.mesh_only && book.peers.len() > 1) => {
            Err(StartError::Mesh(why))
        }
        None => {
            tracing::info!(why, "this node is in no mesh");
            Ok(Err(why))
        }
    }
}

/// Begins this node's part of the mesh, and lets other nodes in there.
pub(super) fn begin(end: End, door: &Door, server: &Server) -> JoinHandle<()> {
    let (server, wide) = (server.clone(), door.is_wide());
    let port = door.mesh.as_ref().map_or(0, SocketAddr::port);
    end.follow(Box::new(move |address| {
        let address = IpAddr::V4(address);
        server.set_inside(address);
        match wide {
            // A door that is open everywhere is open there, too.
            true => Box::pin(std::future::ready(())),
            false => Box::pin(calls::serve_inside((address, port).into(), server)),
        }
    }))
}
