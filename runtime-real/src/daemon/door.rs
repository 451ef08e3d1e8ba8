//! Where other nodes come in.

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpListener;

use super::{DaemonOptions, StartError};

/// Where other nodes come in: bound before anything else, so that what they are told is true.
pub(super) struct Door {
    pub(super) listener: Option<TcpListener>,
    pub(super) address: Option<String>,
}

impl Door {
    pub(super) async fn open(options: &DaemonOptions) -> Result<Door, StartError> {
        let Some(address) = &options.rpc else { return Ok(Door { listener: None, address: None }) };
        let refused = |source| StartError::Listen { address: address.clone(), source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        let told = match (bound.ip().is_unspecified(), options.advertise.parse::<IpAddr>()) {
            (true, Ok(ip)) => SocketAddr::new(ip, bound.port()),
            (true, Err(_)) | (false, _) => bound,
        };
        Ok(Door { listener: Some(listener), address: Some(told.to_string()) })
    }

    /// What others are told; empty if they cannot come in.
    pub(super) fn told(&self) -> String {
        self.address.clone().unwrap_or_default()
    }
}
