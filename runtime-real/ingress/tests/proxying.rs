//! Routes, balancing, retries, holding, draining: what an ingress does for HTTP/1.1.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use mill_ingress::{HttpRoute, Ingress, Limits, Options, Table};

#[test]
fn a_request_goes_to_the_service_of_its_host_and_longest_path() {
    let (web, api) = (Server::saying("web"), Server::saying("api"));
    let ingress = start(&[&web]);
    let mut tables = table(vec![route()], vec![backend(web.address)]);
    tables
        .services
        .push(mill_ingress::Service { name: "api".into(), backends: vec![backend(api.address)] });
    tables.http.push(HttpRoute::new("shop.test", "/api", "api"));
    tables.http.push(HttpRoute::new("*.wild.test", "/", "api"));
    ingress.publish(tables).unwrap();
    let check = |host: &str, path: &str, expect: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(ask(&ingress, &request).body, expect, "{host}{path}");
    };
    check("shop.test", "/", "web");
    check("SHOP.test:8080", "/apix", "web");
    check("shop.test", "/api", "api");
    check("shop.test", "/%61pi/x", "api");
    check("a.wild.test", "/", "api");
    for (host, status) in [("other.test", 404), ("a.b.wild.test", 404), ("wild.test", 404)] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: r-1\r\n\r\n");
        let answer = ask(&ingress, &request);
        assert_eq!(answer.status(), status, "{host}");
        assert!(answer.body.contains("r-1"), "{}", answer.body);
    }
}

#[test]
fn connections_to_backends_are_kept_and_the_client_is_named_to_them() {
    let web = Server::saying("web");
    let ingress = start(&[&web]);
    let mut client = Client::new(&ingress);
    for _ in 0..5 {
        let request = "GET /a?b=c HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 6.6.6.6\r\n\
                       Connection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\r\n";
        assert_eq!(client.ask(request).status(), 200);
    }
    assert_eq!(web.connections.load(Ordering::SeqCst), 1);
    let head = web.seen().pop().unwrap();
    assert!(head.starts_with("get /a?b=c http/1.1\r\n"), "{head}");
    for field in [
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: shop.test\r\n",
        "host: shop.test\r\n",
        "x-request-id: ",
    ] {
        assert!(head.contains(field), "{field} in {head}");
    }
    assert!(!head.contains("x-secret") && !head.contains("keep-alive"), "{head}");
}

#[test]
fn a_body_streams_both_ways_and_too_large_ones_are_refused() {
    let echo = Server::new(|stream, head| {
        let body = String::from_utf8(read_body(stream, head)).unwrap();
        say(stream, &body);
        true
    });
    let ingress = start(&[&echo]);
    let body = "x".repeat(300_000);
    let post = |body: &str| {
        let length = body.len();
        format!("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    assert_eq!(ask(&ingress, &post(&body)).body, body);
    let limited = HttpRoute { max_body: Some(10), ..route() };
    ingress.publish(table(vec![limited], vec![backend(echo.address)])).unwrap();
    assert_eq!(ask(&ingress, &post("0123456789")).status(), 200);
    assert_eq!(ask(&ingress, &post("0123456789a")).status(), 413);
    let chunked = "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                   20\r\n01234567890123456789012345678901\r\n0\r\n\r\n";
    assert_eq!(ask(&ingress, chunked).status(), 413);
}

#[test]
fn a_replica_that_refuses_connections_costs_no_request() {
    let web = Server::saying("web");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ingress = start(&[&web]);
    ingress.publish(table(vec![route()], vec![backend(gone), backend(web.address)])).unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&ingress, &get("/")).status(), 200);
    }
    let metrics = ingress.metrics();
    assert!(metrics.retries >= 3 && metrics.ejections >= 1, "{metrics:?}");
    ingress.publish(table(vec![route()], vec![backend(gone)])).unwrap();
    assert_eq!(ask(&ingress, &get("/")).status(), 502);
}

/// Serves one request, then ends the connection when the second comes, without an answer.
fn forgetful() -> Server {
    let served = AtomicUsize::new(0);
    Server::new(move |stream, head| {
        if served.fetch_add(1, Ordering::SeqCst) == 1 {
            return false;
        }
        read_body(stream, head);
        say(stream, "web");
        true
    })
}

#[test]
fn a_get_on_a_connection_that_was_closed_meanwhile_is_sent_again() {
    let web = forgetful();
    let ingress = start(&[&web]);
    let mut client = Client::new(&ingress);
    assert_eq!(client.ask(&get("/")).status(), 200);
    assert_eq!(client.ask(&get("/")).status(), 200);
    assert_eq!(web.connections.load(Ordering::SeqCst), 2);
    assert_eq!(ingress.metrics().retries, 1);
}

#[test]
fn a_post_that_may_have_been_done_is_not_sent_again() {
    let web = forgetful();
    let ingress = start(&[&web]);
    let post = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\n\r\nhi";
    let mut client = Client::new(&ingress);
    assert_eq!(client.ask(post).status(), 200);
    assert_eq!(client.ask(post).status(), 502);
    assert_eq!(web.seen().len(), 2);
}

#[test]
fn a_request_waits_for_a_replica_as_long_as_its_route_says() {
    let web = Server::saying("web");
    let ingress = start(&[]);
    let mut client = Client::new(&ingress);
    client.send(&get("/"));
    wait_for("a request is held", || ingress.metrics().held == 1);
    ingress.publish(table(vec![route()], vec![backend(web.address)])).unwrap();
    assert_eq!(client.answer().status(), 200);
    let hasty = HttpRoute { hold: Duration::from_millis(20), ..route() };
    ingress.publish(table(vec![hasty], Vec::new())).unwrap();
    assert_eq!(client.ask(&get("/")).status(), 503);
}

#[test]
fn a_backend_that_left_the_table_has_no_idle_connection() {
    let (old, new) = (Server::saying("old"), Server::saying("new"));
    let ingress = start(&[&old]);
    let mut client = Client::new(&ingress);
    assert_eq!(client.ask(&get("/")).body, "old");
    assert_eq!(old.open.load(Ordering::SeqCst), 1);
    let published = ingress.publish(table(vec![route()], vec![backend(new.address)])).unwrap();
    block_on(ingress.adopted(published.generation));
    wait_for("the idle connection closes", || old.open.load(Ordering::SeqCst) == 0);
    assert_eq!(client.ask(&get("/")).body, "new");
}

/// Answers only when it is told to.
fn slow() -> (Server, std::sync::mpsc::Sender<()>) {
    let (go, told) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let server = Server::new(move |stream, _| {
        told.lock().unwrap().recv().unwrap();
        say(stream, "slow");
        true
    });
    (server, go)
}

#[test]
fn a_request_under_way_is_finished_by_the_backend_that_left() {
    let (old, go) = slow();
    let new = Server::saying("new");
    let ingress = start(&[&old]);
    let mut client = Client::new(&ingress);
    client.send(&get("/"));
    wait_for("the request is there", || old.seen().len() == 1);
    ingress.publish(table(vec![route()], vec![backend(new.address)])).unwrap();
    assert_eq!(ask(&ingress, &get("/")).body, "new");
    go.send(()).unwrap();
    assert_eq!(client.answer().body, "slow");
    wait_for("its connection closes", || old.open.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_drain_finishes_what_is_under_way_and_ends() {
    let (web, go) = slow();
    let ingress = start(&[&web]);
    let address = ingress.http_address().unwrap();
    let mut client = Client::new(&ingress);
    let mut idle = Client::new(&ingress);
    idle.send("GET / HTTP");
    client.send(&get("/"));
    wait_for("the request is there", || web.seen().len() == 1);
    let drain = std::thread::spawn(move || block_on(ingress.drain(Duration::from_secs(8))));
    wait_for("nothing is accepted", || std::net::TcpStream::connect(address).is_err());
    go.send(()).unwrap();
    let answer = client.answer();
    assert_eq!(answer.body, "slow");
    assert!(answer.has("connection: close"), "{}", answer.head);
    idle.rest();
    assert_eq!(drain.join().unwrap().cut_off, 0);
}

#[test]
fn a_drain_that_takes_too_long_cuts_off_and_says_so() {
    let (web, _go) = slow();
    let ingress = start(&[&web]);
    let mut client = Client::new(&ingress);
    client.send(&get("/"));
    wait_for("the request is there", || web.seen().len() == 1);
    assert_eq!(block_on(ingress.drain(Duration::from_millis(100))).cut_off, 1);
    assert_eq!(client.rest(), "");
}

#[test]
fn a_service_that_takes_too_long_is_a_timeout() {
    let (web, _go) = slow();
    let ingress = start(&[]);
    let hasty = HttpRoute { timeout: Some(Duration::from_millis(50)), ..route() };
    ingress.publish(table(vec![hasty], vec![backend(web.address)])).unwrap();
    let answer = ask(&ingress, &get("/"));
    assert_eq!(answer.status(), 504);
}

#[test]
fn limits_on_connections_of_one_address_hold() {
    let web = Server::saying("web");
    let limits = Limits { connections_per_address: 2, ..Limits::default() };
    let ingress = Ingress::start(Options { limits, ..options() }).unwrap();
    ingress.publish(table(vec![route()], vec![backend(web.address)])).unwrap();
    let mut open: Vec<Client> = (0..2).map(|_| Client::new(&ingress)).collect();
    assert!(open.iter_mut().all(|client| client.ask(&get("/")).status() == 200));
    let mut third = Client::new(&ingress);
    let _ = third.0.write_all(get("/").as_bytes());
    assert_eq!(third.rest(), "");
    assert_eq!(ingress.metrics().refused_connections, 1);
    // A proxy that is trusted speaks for many.
    let proxies = vec!["127.0.0.1".parse().unwrap()];
    let trusting = table(vec![route()], vec![backend(web.address)]);
    ingress.publish(Table { trusted_proxies: proxies, ..trusting }).unwrap();
    assert_eq!(ask(&ingress, &get("/")).status(), 200);
    drop(open);
    wait_for("places are free again", || ingress.metrics().open_connections == 0);
    assert_eq!(ask(&ingress, &get("/")).status(), 200);
}

#[test]
fn a_table_that_makes_no_sense_changes_nothing() {
    let web = Server::saying("web");
    let ingress = start(&[&web]);
    let odd = |host: &str, path: &str, service: &str| HttpRoute::new(host, path, service);
    let routes = vec![
        odd("Shop.test", "/", "web"),
        odd("shop.test", "api", "web"),
        odd("shop.test", "/x", "nobody"),
        route(),
        route(),
    ];
    let refused = ingress.publish(table(routes, Vec::new())).unwrap_err();
    assert_eq!(refused.problems.len(), 4, "{refused}");
    assert_eq!(ask(&ingress, &get("/")).status(), 200);
}
