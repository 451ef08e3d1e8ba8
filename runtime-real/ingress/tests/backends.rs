//! Backends that misbehave, or answer in ways that are rare: raw bytes, and what a client gets.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use mill_ingress::{HttpRoute, Ingress, Limits, Options};

/// Answers every request with these bytes, and stays or goes.
fn saying_raw(bytes: &'static str, stays: bool) -> Server {
    Server::new(move |stream, head| {
        read_body(stream, head);
        stream.write_all(bytes.as_bytes()).is_ok() && stays
    })
}

#[test]
fn what_is_left_over_is_never_the_answer_to_the_next_request() {
    let first = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst";
    let hidden = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden";
    for answer in [
        format!("{first}{hidden}"),
        format!("{first}x"),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n\
                 5\r\nfirst\r\n0\r\n\r\n{hidden}"
        ),
    ] {
        let web = saying_raw(answer.leak(), true);
        let ingress = start(&[&web]);
        for _ in 0..2 {
            let mut client = Client::new(&ingress);
            client.send(&get("/"));
            let mut answer = [0; 2_000];
            let mut length = 0;
            while !answer[..length].windows(5).any(|part| part == b"first") {
                let more = client.0.read(&mut answer[length..]).unwrap();
                assert_ne!(more, 0, "{}", String::from_utf8_lossy(&answer[..length]));
                length += more;
            }
            assert!(!answer[..length].windows(6).any(|part| part == b"hidden"));
        }
        assert_eq!(web.connections.load(Ordering::SeqCst), 2);
    }
}

/// A POST is never sent twice, so it comes through only if the connection is known to be no good.
#[test]
fn a_kept_connection_that_has_ended_or_says_more_is_not_used_again() {
    let hidden = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 6\r\n\r\nhidden";
    for more in ["", hidden] {
        let (go, told) = std::sync::mpsc::channel();
        let (done, is_done) = std::sync::mpsc::channel();
        let channels = Mutex::new((told, done));
        let web = Server::new(move |stream, head| {
            read_body(stream, head);
            say(stream, "answer");
            if head.starts_with("get") {
                let channels = channels.lock().unwrap();
                channels.0.recv().unwrap();
                stream.write_all(more.as_bytes()).unwrap();
                if more.is_empty() {
                    stream.shutdown(Shutdown::Both).unwrap();
                }
                channels.1.send(()).unwrap();
            }
            true
        });
        let ingress = start(&[&web]);
        assert_eq!(ask(&ingress, &get("/")).body, "answer");
        go.send(()).unwrap();
        is_done.recv().unwrap();
        let post = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(ask(&ingress, post).body, "answer");
        assert_eq!(web.connections.load(Ordering::SeqCst), 2);
        assert_eq!(ingress.metrics().retries, 0);
    }
}

#[test]
fn an_answer_that_cannot_be_read_is_a_bad_gateway() {
    for answer in [
        "no HTTP\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
    ] {
        let web = saying_raw(answer, false);
        let ingress = start(&[&web]);
        assert_eq!(ask(&ingress, &get("/")).status(), 502, "{answer:?}");
    }
}

#[test]
fn a_body_that_breaks_off_ends_the_clients_connection_before_its_end() {
    for (answer, end) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "half"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "half\r\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", "half\r\n"),
    ] {
        let web = saying_raw(answer, false);
        let ingress = start(&[&web]);
        let mut client = Client::new(&ingress);
        client.send(&get("/"));
        let got = client.rest();
        assert!(got.is_empty() || got.ends_with(end), "{got:?}");
    }
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    let web = saying_raw("HTTP/1.1 200 OK\r\n\r\nall of it", false);
    let ingress = start(&[&web]);
    let mut client = Client::new(&ingress);
    client.send("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n");
    let got = client.rest();
    assert!(got.contains("transfer-encoding: chunked\r\n"), "{got}");
    assert!(got.ends_with("9\r\nall of it\r\n0\r\n\r\n"), "{got}");
}

#[test]
fn interim_answers_and_odd_reasons_are_passed_over_and_on() {
    let web = saying_raw(
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
         HTTP/1.1 200 Fine\r\nContent-Length: 1\r\n\r\na",
        true,
    );
    let ingress = start(&[&web]);
    let mut client = Client::new(&ingress);
    for _ in 0..2 {
        let answer = client.ask(&get("/"));
        assert!(answer.head.starts_with("http/1.1 200 fine\r\n"), "{answer:?}");
        assert_eq!(answer.body, "a");
    }
    assert_eq!(web.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn an_answer_before_the_end_of_a_body_is_passed_on_and_its_connection_is_not_used_again() {
    let web = Server::new(|stream, _| {
        say(stream, "enough");
        true
    });
    let ingress = start(&[&web]);
    let mut client = Client::new(&ingress);
    client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\nhalf");
    assert_eq!(client.answer().body, "enough");
    drop(client);
    wait_for("its connection closes", || web.open.load(Ordering::SeqCst) == 0);
    assert_eq!(ask(&ingress, &get("/")).body, "enough");
    assert_eq!(web.connections.load(Ordering::SeqCst), 2);
}

#[test]
fn a_request_says_once_how_long_it_is_and_is_sent_as_it_comes() {
    let web = Server::new(|stream, head| {
        let length = if head.contains("chunked") { 22 } else { 0 };
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        read_body(stream, head);
        say(stream, &String::from_utf8(body).unwrap().replace("\r\n", "|"));
        true
    });
    let ingress = start(&[&web]);
    let host = "Host: shop.test\r\n";
    let mut client = Client::new(&ingress);
    // The second chunk is sent only when the backend has the first: nothing is kept back.
    let trailers = "Trailer: X-Sum, Host\r\nTransfer-Encoding: chunked\r\n";
    client.send(&format!("PUT / HTTP/1.1\r\n{host}{trailers}\r\n2\r\nab\r\n"));
    wait_for("the head is there", || web.seen().len() == 1);
    client.send("0\r\nX-Sum: 1\r\nHost: evil\r\nX-Else: 2\r\n\r\n");
    assert_eq!(client.answer().body, "2|ab|0|x-sum: 1||");
    for (request, expect) in [
        (format!("POST / HTTP/1.1\r\n{host}\r\n"), Some("content-length: 0\r\n")),
        (
            format!("GET / HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n"),
            Some("content-length: 0\r\n"),
        ),
        (format!("GET / HTTP/1.1\r\n{host}\r\n"), None),
        (
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 02\r\n\r\nhi"),
            Some("content-length: 2\r\n"),
        ),
    ] {
        assert_eq!(client.ask(&request).status(), 200, "{request}");
        let head = web.seen().pop().unwrap();
        assert_eq!(head.matches("content-length").count(), expect.iter().count(), "{head}");
        assert!(expect.is_none_or(|expect| head.contains(expect)), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
}

#[test]
fn a_head_that_takes_too_long_is_a_timeout_on_a_new_connection_and_on_a_kept_one() {
    let web = Server::new(|stream, head| {
        let answers = head.starts_with("get /fast");
        if answers {
            say(stream, "fast");
        } else {
            let _ = stream.read(&mut [0]);
        }
        answers
    });
    let limits = Limits { answer_timeout: Duration::from_millis(50), ..Limits::default() };
    let ingress = Ingress::start(Options { limits, ..options() }).unwrap();
    ingress.publish(table(vec![route()], vec![backend(web.address)])).unwrap();
    assert_eq!(ask(&ingress, &get("/slow")).status(), 504);
    assert_eq!(ask(&ingress, &get("/fast")).status(), 200);
    assert_eq!(ask(&ingress, &get("/slow")).status(), 504);
    assert_eq!(web.connections.load(Ordering::SeqCst), 2);
    wait_for("its connections end", || web.open.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_large_body_comes_through_a_route_with_a_timeout() {
    let large = "x".repeat(3_000_000);
    let web = Server::saying(large.clone().leak());
    let ingress = start(&[]);
    let timed = HttpRoute { timeout: Some(PATIENCE), ..route() };
    ingress.publish(table(vec![timed], vec![backend(web.address)])).unwrap();
    let mut client = Client::new(&ingress);
    for _ in 0..3 {
        assert!(client.ask(&get("/")).body == large);
    }
    assert_eq!(web.connections.load(Ordering::SeqCst), 1);
}
