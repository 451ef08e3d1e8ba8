//! One interface until stdin ends, for tests that kill it and for `tools/versus-wireguard.sh`:
//! `mesh INTERFACE PRIVATE_KEY PORT ADDRESS/LENGTH PEER_KEY PEER_ENDPOINT PEER_NETWORK`.
//! It prints `up` when it is, or why it is not. The key is a throw-away one: `ps` shows it.

use std::process::ExitCode;

use mill_mesh::{Mesh, MeshOptions, Peer, Prefer};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, key, port, address, peer, endpoint, network] = arguments.as_slice() else {
        return Err("usage: mesh INTERFACE KEY PORT ADDRESS PEER ENDPOINT NETWORK".into());
    };
    let mesh = Mesh::start(MeshOptions {
        interface: interface.clone(),
        private_key: key.parse()?,
        listen_port: port.parse()?,
        addresses: vec![address.parse()?],
        mtu: None,
        prefer: Prefer::Userspace,
    })?;
    mesh.set_peers(&[Peer {
        public_key: peer.parse()?,
        endpoint: Some(endpoint.parse()?),
        allowed: vec![network.parse()?],
        keepalive: None,
    }])?;
    println!("up");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    mesh.stop();
    Ok(())
}
