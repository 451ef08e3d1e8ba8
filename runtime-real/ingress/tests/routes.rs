//! What routes may ask for: TLS, passwords, rates, addresses, headers, upgrades, TCP; and ports that
//! others have.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use common::*;
use mill_ingress::{
    Challenges, HeaderRule, HttpRoute, Ingress, Login, Options, RateLimit, Service, TcpRoute,
};

fn with(route: HttpRoute, web: &Server) -> Ingress {
    let ingress = start(&[]);
    ingress.publish(table(vec![route], vec![backend(web.address)])).unwrap();
    ingress
}

#[test]
fn plain_requests_are_redirected_but_for_challenges() {
    let web = Server::saying("web");
    let ingress = with(HttpRoute { tls: true, ..route() }, &web);
    let answer = ask(&ingress, &get("/a?b"));
    assert_eq!(answer.status(), 308);
    assert!(answer.has("location: https://shop.test/a?b\r\n"), "{}", answer.head);
    let mut challenges = Challenges::default();
    challenges.http.insert("token".into(), "proof".into());
    ingress.certificates().replace_challenges(challenges);
    let answer = ask(&ingress, &get("/.well-known/acme-challenge/token"));
    assert_eq!((answer.status(), &*answer.body), (200, "proof"));
    assert_eq!(ask(&ingress, &get("/.well-known/acme-challenge/other")).status(), 308);
}

#[test]
fn a_password_is_asked_for_and_checked() {
    let web = Server::saying("web");
    // What `htpasswd -nbB ops secret` prints.
    let hash =
        bcrypt::hash_with_result("secret", 5).unwrap().format_for_version(bcrypt::Version::TwoY);
    let basic_auth = vec![Login { name: "ops".into(), hash }];
    let ingress = with(HttpRoute { basic_auth, ..route() }, &web);
    let ask_as = |credentials: &str| {
        let field = format!("Authorization: Basic {credentials}\r\n");
        ask(&ingress, &format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{field}\r\n")).status()
    };
    let refused = ask(&ingress, &get("/"));
    assert_eq!(refused.status(), 401);
    assert!(refused.has("www-authenticate: basic realm="), "{}", refused.head);
    assert_eq!(ask_as("b3BzOnNlY3JldA=="), 200);
    assert_eq!(ask_as("b3BzOnNlY3JldA=="), 200);
    assert_eq!(ask_as("b3BzOndyb25n"), 401);
    assert_eq!(ask_as("bm9ib2R5OnNlY3JldA=="), 401);
}

#[test]
fn a_client_that_comes_too_often_is_told_when_to_come_back() {
    let web = Server::saying("web");
    let rate_limit = Some(RateLimit { per_second: 1, burst: 2 });
    let ingress = with(HttpRoute { rate_limit, ..route() }, &web);
    let statuses: Vec<u16> = (0..2).map(|_| ask(&ingress, &get("/")).status()).collect();
    assert_eq!(statuses, [200, 200]);
    let answer = ask(&ingress, &get("/"));
    assert_eq!(answer.status(), 429);
    assert!(answer.has("retry-after: 1\r\n"), "{}", answer.head);
}

#[test]
fn addresses_maintenance_and_redirects_have_their_answers() {
    let web = Server::saying("web");
    let check = |route: HttpRoute, status: u16| {
        let answer = ask(&with(route, &web), &get("/"));
        assert_eq!(answer.status(), status, "{answer:?}");
        answer
    };
    check(HttpRoute { allow: vec!["10.0.0.0/8".parse().unwrap()], ..route() }, 403);
    check(HttpRoute { allow: vec!["127.0.0.0/8".parse().unwrap()], ..route() }, 200);
    let page = check(HttpRoute { maintenance: Some("Back at noon.".into()), ..route() }, 503);
    assert!(page.body.contains("Back at noon."));
    let redirect = Some("https://elsewhere.test/".to_owned());
    let answer = check(HttpRoute { redirect, ..route() }, 302);
    assert!(answer.has("location: https://elsewhere.test/\r\n"));
}

#[test]
fn headers_are_changed_and_prefixes_stripped() {
    let web = Server::saying("web");
    let ingress = with(
        HttpRoute {
            path: "/api".into(),
            strip_prefix: true,
            request_headers: vec![HeaderRule::Set { name: "X-A".into(), value: "1".into() }],
            response_headers: vec![HeaderRule::Set { name: "X-B".into(), value: "2".into() }],
            ..route()
        },
        &web,
    );
    let answer = ask(&ingress, &get("/api/x?y"));
    assert!(answer.has("x-b: 2\r\n"), "{}", answer.head);
    assert_eq!(ask(&ingress, &get("/api")).status(), 200);
    assert_eq!(ask(&ingress, &get("/%61pi?q")).status(), 200);
    let seen = web.seen();
    assert!(seen[0].starts_with("get /x?y ") && seen[0].contains("x-a: 1\r\n"), "{seen:?}");
    assert!(seen[1].starts_with("get / ") && seen[2].starts_with("get /?q "), "{seen:?}");
}

const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn a_websocket_is_a_tunnel_whose_halves_end_on_their_own() {
    let web = Server::new(|stream, head| {
        assert!(head.contains("upgrade: websocket"), "{head}");
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                      Upgrade: websocket\r\n\r\n";
        stream.write_all(switch.as_bytes()).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        stream.write_all(format!("heard {heard}").as_bytes()).unwrap();
        false
    });
    let ingress = with(HttpRoute { websocket: true, ..route() }, &web);
    let mut client = Client::new(&ingress);
    let answer = client.ask(UPGRADE);
    assert_eq!(answer.status(), 101);
    assert!(answer.has("upgrade: websocket"), "{}", answer.head);
    // What would be refused in a request is none of an ingress's business here.
    let frames = "A: b\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(frames);
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.rest(), format!("heard {frames}"));
    assert_eq!(ask(&with(route(), &web), UPGRADE).status(), 403);
}

#[test]
fn a_tcp_route_passes_bytes_on_and_ends_with_its_table() {
    let echo = Server::new(|stream, head| {
        stream.write_all(head.as_bytes()).unwrap();
        true
    });
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ingress = start(&[]);
    let mut tables = table(Vec::new(), vec![backend(echo.address)]);
    tables.tcp.push(TcpRoute { listen: free, server_name: None, service: "web".into() });
    assert!(ingress.publish(tables.clone()).unwrap().refused.is_empty());
    let talk = |address: SocketAddr| {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"hello\r\n\r\n")?;
        let mut heard = [0; 9];
        stream.read_exact(&mut heard)?;
        std::io::Result::Ok(heard)
    };
    assert_eq!(&talk(free).unwrap(), b"hello\r\n\r\n");
    ingress.publish(table(Vec::new(), Vec::new())).unwrap();
    wait_for("the port is closed", || TcpStream::connect(free).is_err());
    assert!(ingress.publish(tables).unwrap().refused.is_empty());
    assert_eq!(&talk(free).unwrap(), b"hello\r\n\r\n");
}

#[test]
fn a_port_that_another_program_has_costs_no_other_and_is_served_once_it_is_free() {
    let echo = Server::new(|stream, head| {
        stream.write_all(head.as_bytes()).unwrap();
        true
    });
    let web = Server::saying("web");
    let other_program = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other_program.local_addr().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ingress = Ingress::start(Options { workers: 2, ..options() }).unwrap();
    let mut tables = table(vec![route()], vec![backend(web.address)]);
    let backends = vec![backend(echo.address)];
    tables.services.push(Service { name: "echo".into(), backends });
    for listen in [taken, free] {
        tables.tcp.push(TcpRoute { listen, server_name: None, service: "echo".into() });
    }
    let talk = |address: SocketAddr| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"hello\r\n\r\n").unwrap();
        let mut heard = [0; 9];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello\r\n\r\n");
    };
    for _ in 0..2 {
        let refused = ingress.publish(tables.clone()).unwrap().refused;
        let [(address, error)] = refused.as_slice() else { panic!("{refused:?}") };
        assert_eq!((*address, error.kind()), (taken, ErrorKind::AddrInUse));
        assert!(mill_ingress::is_free(taken).is_err());
        talk(free);
        assert_eq!(ask(&ingress, &get("/")).body, "web");
    }
    drop(other_program);
    assert!(ingress.publish(tables).unwrap().refused.is_empty());
    talk(taken);
    talk(free);
}

#[test]
fn an_ingress_whose_port_is_taken_says_which_and_leaves_the_other_free() {
    let other_program = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other_program.local_addr().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let both = Options { http: Some(free), https: Some(taken), ..options() };
    let refused = Ingress::start(both.clone()).unwrap_err();
    assert!(refused.to_string().contains(&taken.to_string()), "{refused}");
    mill_ingress::is_free(free).unwrap();
    drop(other_program);
    let ingress = Ingress::start(both).unwrap();
    assert_eq!(ingress.https_address(), Some(taken));
    assert_eq!(ask(&ingress, &get("/")).status(), 404);
}
