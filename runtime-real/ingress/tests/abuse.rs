//! What strangers send on purpose: raw bytes, and what becomes of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::Write as _;
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

/// Sends a request and one that hides behind it: neither reaches the backend, and the second gets
/// no answer, since the connection ends with the first.
fn check_hidden(ingress: &Ingress, parts: &[&str]) {
    let mut client = Client::new(ingress);
    client.send(parts[0]);
    for part in parts[1..].iter().chain([&get("/hidden").as_str()]) {
        // The other side may have ended already.
        let _ = client.0.write_all(part.as_bytes());
    }
    let answer = client.answer();
    assert_eq!(answer.status(), 400, "{parts:?} got {answer:?}");
    assert!(answer.has("connection: close"), "{answer:?}");
    assert_eq!(client.rest(), "", "{parts:?}");
}

#[test]
fn a_request_whose_length_is_ambiguous_is_refused_with_all_that_follows() {
    let web = Server::saying("web");
    let ingress = start(&[&web]);
    let host = "Host: shop.test\r\n";
    let (length, chunked) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    for fields in [
        format!("{length}{chunked}"),
        format!("{chunked}{length}"),
        format!("{length}{length}"),
        format!("{length}Content-Length: 6\r\n"),
        format!("{chunked}{chunked}"),
        format!("{length}X-A: {}\r\n{chunked}", "a".repeat(9_000)),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer-Encoding:\r\n chunked\r\n".to_owned(),
        " Transfer-Encoding: chunked\r\n".to_owned(),
        "X-A: a\r\n folded\r\n".to_owned(),
        "X-A: a\nTransfer-Encoding: chunked\r\n".to_owned(),
        "X-A: a\rTransfer-Encoding: chunked\r\n".to_owned(),
        "X-A: a\0b\r\n".to_owned(),
        "X-A\0: a\r\n".to_owned(),
        "Content-Length: +5\r\n".to_owned(),
        "Content-Length: -5\r\n".to_owned(),
        "Content-Length: 5 5\r\n".to_owned(),
        "Content-Length : 5\r\n".to_owned(),
        "Content-Length: 0x5\r\n".to_owned(),
        "Content-Length: \r\n".to_owned(),
        "Content-Length: 18446744073709551616\r\n".to_owned(),
    ] {
        let head = format!("POST / HTTP/1.1\r\n{host}{fields}");
        check_hidden(&ingress, &[&head, "\r\n", "0\r\n\r\n"]);
        check_hidden(&ingress, &[&format!("{head}\r\n0\r\n\r\n")]);
    }
    check_hidden(&ingress, &[&format!("POST / HTTP/1.1\n{host}\r\n")]);
    check_hidden(&ingress, &[&format!("POST / HTTP/1.1\r\n{host}\n")]);
    assert_eq!(web.seen(), Vec::<String>::new());
}

#[test]
fn what_was_asked_before_an_ambiguous_request_is_answered_and_nothing_after_it() {
    let web = Server::saying("web");
    let ingress = start(&[&web]);
    let host = "Host: shop.test\r\n";
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let mut client = Client::new(&ingress);
    let bad = format!("POST /bad HTTP/1.1\r\n{host}{both}\r\n0\r\n\r\n");
    let length = "Content-Length: 3\r\n";
    let sized = format!("POST /sized HTTP/1.1\r\n{host}{length}\r\nabc");
    client.send(&format!("{}{sized}{bad}{}", get("/first"), get("/hidden")));
    let statuses = [client.answer().status(), client.answer().status(), client.answer().status()];
    assert_eq!(statuses, [200, 200, 400]);
    assert_eq!(client.rest(), "");
    let seen: Vec<_> = web.seen().iter().map(|head| head[..10].to_owned()).collect();
    assert_eq!(seen, ["get /first", "post /size"]);
}

#[test]
fn requests_of_every_length_follow_each_other_on_one_connection() {
    let web = Server::new(|stream, head| {
        let length = head.split("content-length: ").nth(1);
        match length {
            Some(_) => drop(read_body(stream, head)),
            None if head.contains("chunked") => while read_head(stream).is_none() {},
            None => {}
        }
        say(stream, "web");
        true
    });
    let ingress = start(&[&web]);
    let post = "POST / HTTP/1.1\r\nHost: shop.test\r\n";
    let looks_odd = "A: b\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    let length = looks_odd.len();
    let sized = format!("{post}Content-Length: {length}\r\n\r\n{looks_odd}");
    let chunks = format!("{length:x};a=b\r\n{looks_odd}\r\n0\r\n\r\n");
    let chunked = format!("{post}Transfer-Encoding: Chunked\r\n\r\n{chunks}");
    let mut client = Client::new(&ingress);
    client.send(&format!("{}\r\n{sized}{chunked}{sized}{chunked}{}", get("/"), get("/")));
    for _ in 0..6 {
        assert_eq!(client.answer().status(), 200);
    }
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
    for chunks in ["zz\r\n", "fffffffffffffffff\r\n", "1\n", "1\r\nab\r\n", "0\r\nA: b\n\n"] {
        check_hidden(&ingress, &[&format!("{head}{chunks}")]);
    }
    assert!(!web.seen().iter().any(|head| head.contains("hidden")));
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
