//! What strangers send on purpose: raw bytes, and what becomes of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::time::Duration;

use common::*;
use mill_ingress::{HttpRoute, Ingress, Limits, Options, Service};

fn check(ingress: &Ingress, request: &str, status: u16) {
    let mut client = Client::new(ingress);
    client.send(request);
    let answer = client.answer();
    assert_eq!(answer.status(), status, "{request:?} got {answer:?}");
}

#[test]
fn malformed_requests_are_refused_and_reach_no_backend() {
    let web = Server::saying("web");
    let ingress = start(&[&web]);
    let host = "Host: shop.test\r\n";
    for head in [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{host}Host: other.test\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}{host}\r\n"),
        format!("GET http://other.test/ HTTP/1.1\r\n{host}\r\n"),
        "GET / HTTP/1.1\r\nHost: a@shop.test\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: +1\r\n\r\nx"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 1, 1\r\n\r\nx"),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, identity\r\n\r\n"),
        format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X-A: 1\r\n folded\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X-A : 1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X-A: a\0b\r\n\r\n"),
        format!("GET /a b HTTP/1.1\r\n{host}\r\n"),
        format!("GET /../x HTTP/1.1\r\n{host}\r\n"),
        format!("GET /a/%2e%2E/x HTTP/1.1\r\n{host}\r\n"),
        format!("GET /a%00 HTTP/1.1\r\n{host}\r\n"),
        format!("GET * HTTP/1.1\r\n{host}\r\n"),
    ] {
        check(&ingress, &head, 400);
    }
    for method in ["TRACE /", "CONNECT shop.test:443"] {
        check(&ingress, &format!("{method} HTTP/1.1\r\n{host}\r\n"), 405);
    }
    assert_eq!(web.seen(), Vec::<String>::new());
}

/// RFC 9112 section 6.3: the chunks count, the length is removed, the connection ends.
#[test]
fn two_lengths_of_one_body_smuggle_nothing() {
    let web = Server::new(|stream, head| {
        assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"));
        let mut end = [0; 5];
        std::io::Read::read_exact(stream, &mut end).unwrap();
        say(stream, "web");
        true
    });
    let ingress = start(&[&web]);
    let host = "Host: shop.test\r\n";
    let (length, chunked) = ("Content-Length: 50\r\n", "Transfer-Encoding: chunked\r\n");
    for fields in [format!("{length}{chunked}"), format!("{chunked}{length}")] {
        let mut client = Client::new(&ingress);
        let smuggled = format!("0\r\n\r\nGET /smuggled HTTP/1.1\r\n{host}\r\n");
        client.send(&format!("POST / HTTP/1.1\r\n{host}{fields}\r\n{smuggled}"));
        let answer = client.answer();
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert!(answer.has("connection: close"), "{answer:?}");
        assert_eq!(client.rest(), "");
    }
    assert!(!web.seen().iter().any(|head| head.contains("smuggled")));
}

#[test]
fn a_path_with_two_meanings_is_refused_where_they_lead_apart() {
    let (web, admin) = (Server::saying("web"), Server::saying("admin"));
    let ingress = start(&[&web]);
    let mut tables = table(vec![route()], vec![backend(web.address)]);
    let backends = vec![backend(admin.address)];
    tables.services.push(Service { name: "admin".into(), backends });
    tables.http.push(HttpRoute::new("shop.test", "/admin/keys", "admin"));
    ingress.publish(tables).unwrap();
    for path in ["/admin%2fkeys", "//admin/keys", "/admin%5Ckeys", "/admin//keys"] {
        check(&ingress, &get(path), 400);
    }
    assert_eq!(ask(&ingress, &get("/group%2Fproject")).body, "web");
    assert!(web.seen()[0].starts_with("get /group%2fproject "), "{:?}", web.seen());
}

#[test]
fn heads_that_are_too_large_or_too_many_are_refused() {
    let web = Server::saying("web");
    let ingress = start(&[&web]);
    let host = "Host: shop.test\r\n";
    let large = format!("GET / HTTP/1.1\r\n{host}X-A: {}\r\n\r\n", "a".repeat(40_000));
    check(&ingress, &large, 431);
    let many: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    check(&ingress, &format!("GET / HTTP/1.1\r\n{host}{many}\r\n"), 431);
}

fn with(limits: Limits, web: &Server) -> Ingress {
    let ingress = Ingress::start(Options { limits, ..options() }).unwrap();
    ingress.publish(table(vec![route()], vec![backend(web.address)])).unwrap();
    ingress
}

#[test]
fn slow_heads_and_idle_connections_are_cut_off() {
    let web = Server::saying("web");
    let short = Duration::from_millis(100);
    let ingress = with(Limits { header_timeout: short, ..Limits::default() }, &web);
    for first in ["", "G", "GET / HTTP/1.1\r\nHost: shop.test\r\nX-A: "] {
        let mut client = Client::new(&ingress);
        client.send(first);
        assert_eq!(client.rest(), "", "{first:?}");
    }
    let mut second = Client::new(&ingress);
    assert_eq!(second.ask(&get("/")).status(), 200);
    second.send("GET / HTTP/1.1\r\nHost:");
    assert_eq!(second.rest(), "");
    let ingress = with(Limits { idle_timeout: short, ..Limits::default() }, &web);
    let mut idle = Client::new(&ingress);
    assert_eq!(idle.ask(&get("/")).status(), 200);
    assert_eq!(idle.rest(), "");
}

#[test]
fn a_body_that_stalls_is_given_up() {
    let web = Server::saying("web");
    let stall = Duration::from_millis(100);
    let ingress = with(Limits { body_read_stall: stall, ..Limits::default() }, &web);
    check(&ingress, "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9\r\n\r\nabc", 408);
}

#[test]
fn a_body_that_is_malformed_is_a_bad_request() {
    let web = Server::new(|stream, _| {
        let mut sink = [0; 64];
        while std::io::Read::read(stream, &mut sink).is_ok_and(|count| count > 0) {}
        false
    });
    let ingress = start(&[&web]);
    let head = "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    check(&ingress, &format!("{head}zz\r\n"), 400);
    check(&ingress, &format!("{head}fffffffffffffffff\r\n"), 400);
}

#[test]
fn ids_that_are_not_safe_to_log_are_replaced() {
    let web = Server::saying("web");
    let ingress = start(&[&web]);
    let ask_with = |id: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: shop.test\r\nX-Request-Id: {id}\r\n\r\n");
        assert_eq!(ask(&ingress, &request).status(), 200);
        web.seen().pop().unwrap()
    };
    assert!(ask_with("abc-1").contains("x-request-id: abc-1\r\n"));
    assert!(!ask_with("<script>").contains("script"));
    assert!(!ask_with(&"a".repeat(200)).contains("aaaa"));
}
