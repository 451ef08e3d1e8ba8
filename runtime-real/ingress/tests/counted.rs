//! What is counted and logged, who a client is behind a proxy, and several workers at once.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::TcpListener;

use common::*;
use mill_ingress::{Ingress, Options, RouteLabel, Table, TcpRoute};

#[test]
fn requests_are_counted_by_route_and_class_and_leave_a_record() {
    let web = Server::saying("web");
    let (log, mut records) = tokio::sync::mpsc::channel(1);
    let access_log = Some(log);
    let ingress = Ingress::start(Options { access_log, ..options() }).unwrap();
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let table = table(vec![route()], vec![backend(web.address)]);
    ingress.publish(Table { trusted_proxies, ..table }).unwrap();
    let request = "GET /a?b HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 192.0.2.9\r\n\
                   X-Forwarded-Proto: https\r\n\r\n";
    let mut client = Client::new(&ingress);
    assert_eq!(client.ask(request).status(), 200);
    let unknown = "GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n";
    assert_eq!(client.ask(unknown).status(), 404);
    let label = RouteLabel { host: "shop.test".into(), path: "/".into() };
    wait_for("both are counted", || {
        let routes = ingress.metrics().routes;
        routes[&label].by_class == [0, 1, 0, 0, 0]
            && routes[&RouteLabel::default()].by_class == [0, 0, 0, 1, 0]
    });
    let record = records.blocking_recv().unwrap();
    assert_eq!((record.status, record.bytes_out, &*record.target), (200, 3, "/a?b"));
    assert_eq!(record.client.to_string(), "192.0.2.9");
    assert_eq!(record.service.as_deref(), Some("web"));
    assert_eq!(ingress.metrics().access_records_lost, 1);
    let head = web.seen().pop().unwrap();
    assert!(head.contains("x-forwarded-for: 192.0.2.9, 127.0.0.1\r\n"), "{head}");
    assert!(head.contains("x-forwarded-proto: https\r\n"), "{head}");
    drop(client);
    wait_for("bytes are counted", || {
        let metrics = ingress.metrics();
        metrics.bytes_in == (request.len() + unknown.len()) as u64 && metrics.bytes_out > 0
    });
}

#[test]
fn workers_share_a_port_and_a_publish_reaches_all_of_them() {
    let (old, new) = (Server::saying("old"), Server::saying("new"));
    let ingress = Ingress::start(Options { workers: 3, ..options() }).unwrap();
    ingress.publish(table(vec![route()], vec![backend(old.address)])).unwrap();
    let mut clients: Vec<Client> = (0..24).map(|_| Client::new(&ingress)).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&get("/")).body, "old");
    }
    let connections = old.connections.load(std::sync::atomic::Ordering::SeqCst);
    assert!(connections >= 2, "one worker served all");
    ingress.publish(table(vec![route()], vec![backend(new.address)])).unwrap();
    for client in &mut clients {
        assert_eq!(client.ask(&get("/")).body, "new");
    }
}

#[test]
fn tls_connections_are_told_apart_by_name_and_passed_on_untouched() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outer = start(&[]);
    let web = Server::saying("web");
    let inner = start(&[&web]);
    let made = rcgen::generate_simple_self_signed(["shop.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut set = mill_ingress::CertificateSet::default();
    set.add(&["shop.test"], vec![made.cert.der().clone()], &key).unwrap();
    inner.certificates().replace(set);
    let mut tables = table(Vec::new(), vec![backend(inner.https_address().unwrap())]);
    let server_name = Some("shop.test".to_owned());
    tables.tcp.push(TcpRoute { listen: free, server_name, service: "web".into() });
    assert!(outer.publish(tables).unwrap().refused.is_empty());
    let connect = |name: &'static str| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        block_on(async {
            let stream = tokio::net::TcpStream::connect(free).await.unwrap();
            connector.connect(name.try_into().unwrap(), stream).await.map(|_| ())
        })
    };
    connect("shop.test").unwrap();
    assert!(connect("other.test").is_err());
}
