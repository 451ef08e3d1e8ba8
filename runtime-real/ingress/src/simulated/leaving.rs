//! An ingress that ends: what was begun is answered, and nothing new is let in.

use std::time::Duration;

use hyper::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::options::Options;

use super::people::{Caller, connect, request};
use super::stage::{
    Draw, HOST, Ingress, MOST_LAG, Notes, PORT, ROOMY, TICK, millis, network, now, replica, route,
    tell,
};

fn options() -> Options {
    Options { workers: 1, ..Options::default() }
}

/// A connection on which one request was answered.
async fn kept() -> turmoil::net::TcpStream {
    let mut stream = connect(PORT).await.unwrap();
    let asked = format!("GET /kept HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"one /kept 0") {
        assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "{}", heard.escape_ascii());
    }
    stream
}

#[test]
fn a_drain_answers_what_was_begun_closes_what_is_idle_and_lets_nothing_in() {
    for seed in 0..20 {
        let mut sim = network(seed, ROOMY);
        let notes = Notes::default();
        replica(&mut sim, "one", &notes);
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["one"]);
            let mut idle = kept().await;
            let mut draw = Draw::new(seed);
            let ask = |number: u64| {
                let method = if number.is_multiple_of(2) { Method::GET } else { Method::POST };
                // Longer than a drain waits for what was not begun.
                let path = format!("/{number}?{}", 1_300 + draw.below(400));
                let asked = request(method, &path, Vec::new());
                spawn_local(async move { Caller::default().ask(asked).await })
            };
            let begun: Vec<_> = (0..6).map(ask).collect();
            // All of them have reached the replica by then.
            sleep(millis(300)).await;
            assert_eq!(notes.begun().len(), 7);
            let told = now();
            ingress.drain(Duration::from_secs(5));
            sleep(2 * TICK).await;
            assert!(connect(PORT).await.is_err(), "it still accepts");
            assert_eq!(idle.read(&mut [0]).await.unwrap(), 0, "no proper end");
            assert!(now() < told + 3 * MOST_LAG, "the idle connection stayed open");
            for one in begun {
                let outcome = one.await.unwrap();
                assert_eq!(outcome.status(), 200, "{outcome:?}");
            }
            sleep(2 * TICK).await;
            assert_eq!(ingress.cut_off.get(), Some(0));
            assert!(now() < told + millis(2_000), "it did not end when it could");
        });
    }
}

#[test]
fn a_request_that_comes_with_the_drain_is_answered_or_never_begun() {
    for seed in 0..30 {
        let mut sim = network(seed, ROOMY);
        let notes = Notes::default();
        replica(&mut sim, "one", &notes);
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["one"]);
            let mut draw = Draw::new(seed);
            let callers: Vec<_> = (0..8)
                .map(|number| {
                    let wait = draw.millis(0, 120);
                    spawn_local(async move {
                        let mut caller = Caller::default();
                        // Half of them have a connection by then.
                        if number % 2 == 0 {
                            assert_eq!(caller.get("/before").await.status(), 200);
                        }
                        sleep(millis(400).saturating_sub(now()) + wait).await;
                        let path = format!("/{number}");
                        (path.clone(), caller.get(&path).await)
                    })
                })
                .collect();
            sleep(millis(460).saturating_sub(now())).await;
            ingress.drain(Duration::from_secs(5));
            for caller in callers {
                let (path, outcome) = caller.await.unwrap();
                let begun = notes.begun().iter().any(|begun| begun.path == path);
                let answered = outcome.status() == 200;
                assert_eq!(begun, answered, "{path}: {outcome:?}");
            }
            sleep(millis(1_500)).await;
            assert_eq!(ingress.cut_off.get(), Some(0));
        });
    }
}

#[test]
fn a_drain_that_takes_too_long_cuts_off_and_says_how_many() {
    for seed in 0..10 {
        let mut sim = network(seed, ROOMY);
        replica(&mut sim, "one", &Notes::default());
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["one"]);
            let ask = |_| spawn_local(async { Caller::default().get("/?9000").await });
            let begun: Vec<_> = (0..3).map(ask).collect();
            sleep(millis(300)).await;
            let told = now();
            ingress.drain(millis(700));
            for one in begun {
                let outcome = one.await.unwrap();
                assert!(outcome.answer.is_err(), "{outcome:?}");
                let end = outcome.began + outcome.took;
                assert!(end >= told + millis(700), "cut off too early: {outcome:?}");
                assert!(end < told + millis(700) + MOST_LAG + 4 * TICK, "{outcome:?}");
            }
            assert_eq!(ingress.cut_off.get(), Some(3));
        });
    }
}
