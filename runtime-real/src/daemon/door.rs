//! Where other nodes come in.

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpListener;

use super::{DaemonOptions, StartError};
use crate::mesh::can_mesh;

/// Where other nodes come in: bound before anything else, so that what they are told is true.
pub(super) struct Door {
    pub(super) listener: Option<TcpListener>,
    pub(super) address: Option<String>,
    /// Where datagrams of the mesh come in, or why none can.
    pub(super) mesh: Result<SocketAddr, String>,
}

impl Door {
    pub(super) async fn open(options: &DaemonOptions) -> Result<Door, StartError> {
        let Some(address) = &options.rpc else {
            let mesh = Err("it serves no other nodes".to_owned());
            return Ok(Door { listener: None, address: None, mesh });
        };
        let refused = |source| StartError::Listen { address: address.clone(), source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        let told = match (bound.ip().is_unspecified(), options.advertise.parse::<IpAddr>()) {
            (true, Ok(ip)) => SocketAddr::new(ip, bound.port()),
            (true, Err(_)) | (false, _) => bound,
        };
        let mesh = endpoint(options, bound.port());
        Ok(Door { listener: Some(listener), address: Some(told.to_string()), mesh })
    }

    /// Whether all that comes to that port of this machine comes in here.
    pub(super) fn is_wide(&self) -> bool {
        let bound = self.listener.as_ref().and_then(|listener| listener.local_addr().ok());
        bound.is_some_and(|bound| bound.ip().is_unspecified())
    }

    /// What others are told; empty if they cannot come in.
    pub(super) fn told(&self) -> String {
        self.address.clone().unwrap_or_default()
    }
}

/// Datagrams come in at the port of the same number, if this machine can be part of a mesh and others
/// reach it.
fn endpoint(options: &DaemonOptions, port: u16) -> Result<SocketAddr, String> {
    let advertise: IpAddr = options.advertise.parse().map_err(|_| {
        format!("{} is not an IP address: name one with --advertise", options.advertise)
    })?;
    if advertise.is_loopback() || advertise.is_unspecified() {
        return Err(format!(
            "{advertise} is no address that others reach: name one with --advertise"
        ));
    }
    can_mesh()?;
    Ok(SocketAddr::new(advertise, port))
}
