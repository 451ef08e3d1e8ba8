//! What the tests of the name server share.

use std::net::Ipv4Addr;

use tokio::net::{TcpListener, UdpSocket};

/// A free port for names on loopback, in both kinds.
pub async fn free_port() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // Another test may have that port for its connections.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}
