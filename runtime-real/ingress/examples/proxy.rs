//! A proxy for one backend, as the benchmark runs it:
//! `proxy LISTEN BACKEND WORKERS [LISTEN_TLS CERTIFICATE KEY]`, the last two in PEM.
//!
//! It serves the host `localhost` until standard input ends.

use std::error::Error;
use std::io::Read;
use std::net::SocketAddr;

use mill_ingress::{Backend, CertificateSet, HttpRoute, Ingress, Options, Service, Table};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: proxy LISTEN BACKEND WORKERS [TLS CERT KEY]");
    let http: SocketAddr = next()?.parse()?;
    let address: SocketAddr = next()?.parse()?;
    let workers = next()?.parse()?;
    let https = next().ok().map(|address| address.parse()).transpose()?;
    let ingress =
        Ingress::start(Options { http: Some(http), https, workers, ..Options::default() })?;
    if https.is_some() {
        let chain = CertificateDer::pem_file_iter(next()?)?.collect::<Result<Vec<_>, _>>()?;
        let mut set = CertificateSet::default();
        set.add(&["localhost"], chain, &PrivateKeyDer::from_pem_file(next()?)?)?;
        ingress.certificates().replace(set);
    }
    let backends = vec![Backend { id: "web".into(), address, same_node: true, h2c: false }];
    ingress.publish(Table {
        http: vec![HttpRoute::new("localhost", "/", "web")],
        services: vec![Service { name: "web".into(), backends }],
        ..Table::default()
    })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
