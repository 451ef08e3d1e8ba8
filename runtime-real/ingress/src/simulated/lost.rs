//! Replicas that are cut off, crash, hang or hurry away, and services that have none.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use crate::options::{Limits, Options};
use crate::table::HttpRoute;

use super::network::{cut, mend};
use super::people::{Caller, Outcome, request};
use super::stage::{
    Draw, Ingress, MOST_LAG, Notes, ROOMY, Switch, TICK, machine, millis, network, now, replica,
    route, tell,
};

const CALLERS: u64 = 6;
const REPLICAS: [&str; 3] = ["one", "two", "three"];

/// What messages add to a time that the ingress keeps, at most: a connection, the request, another
/// connection and the answer, each with its ticks.
const MESSAGES: Duration = Duration::from_millis(4 * 44);

fn options() -> Options {
    let limits = Limits {
        connect_timeout: millis(500),
        unanswered_timeout: millis(1_000),
        answer_timeout: millis(3_000),
        ..Limits::default()
    };
    Options { workers: 1, limits, ..Options::default() }
}

/// How a replica is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing reaches it, and nothing comes from it.
    CutOff,
    /// Its connections end, and it accepts none.
    Crashed,
}

impl Fault {
    /// Long enough to be noticed: nothing is known of what was cut off until times are over.
    fn lasts(self) -> Duration {
        match self {
            Fault::CutOff => millis(4_000),
            Fault::Crashed => millis(2_500),
        }
    }

    fn begins(self, switch: &Switch) {
        match self {
            Fault::CutOff => cut("two"),
            Fault::Crashed => {
                switch.send_replace(false);
            }
        }
    }

    fn ends(self, switch: &Switch) {
        match self {
            Fault::CutOff => mend("two"),
            Fault::Crashed => {
                switch.send_replace(true);
            }
        }
    }
}

/// What callers asked, and what became of it.
type Outcomes = Rc<RefCell<BTreeMap<String, (Method, Outcome)>>>;

async fn call(number: u64, seed: u64, over: Rc<Cell<bool>>, outcomes: Outcomes) {
    let mut draw = Draw::new(seed * CALLERS + number);
    let mut caller = Caller::default();
    for count in 0.. {
        if over.get() {
            return;
        }
        let (method, length) = match draw.below(3) {
            0 => (Method::POST, draw.below(2) * draw.below(3_000)),
            _ => (Method::GET, 0),
        };
        let path = format!("/{number}.{count}");
        let asked = format!("{path}?{}", draw.below(50));
        let outcome =
            caller.ask(request(method.clone(), &asked, vec![b'x'; length as usize])).await;
        outcomes.borrow_mut().insert(path, (method, outcome));
        sleep(draw.millis(0, 30)).await;
    }
}

/// One of three replicas is lost while callers ask, and comes back.
fn lose(seed: u64, fault: Fault) {
    let mut sim = network(seed, ROOMY);
    let notes = Notes::default();
    let switches = REPLICAS.map(|name| replica(&mut sim, name, &notes));
    let ingress = Ingress::new(&mut sim, seed, options());
    tell(sim, seed, async move {
        ingress.publish(route(), &REPLICAS);
        let (over, outcomes) = (Rc::new(Cell::new(false)), Outcomes::default());
        let call = |number| spawn_local(call(number, seed, Rc::clone(&over), Rc::clone(&outcomes)));
        let callers: Vec<_> = (0..CALLERS).map(call).collect();
        sleep(Draw::new(seed).millis(600, 700)).await;
        let lost = now();
        fault.begins(&switches[1]);
        sleep(fault.lasts()).await;
        assert!(ingress.counters.ejections.value() > 0, "it was never left out");
        let back = now();
        fault.ends(&switches[1]);
        // It has been left out twice, and so for 2 s at most.
        sleep(millis(3_000)).await;
        let begun = notes.begun();
        let again = begun.iter().any(|it| it.replica == "two" && it.at > back + 2 * MOST_LAG);
        assert!(again, "it was never asked again");
        over.set(true);
        for caller in callers {
            caller.await.unwrap();
        }
        check(fault, lost, &outcomes.borrow());
        let posts = outcomes.borrow();
        for (path, _) in posts.iter().filter(|(_, (method, _))| *method == Method::POST) {
            let times = begun.iter().filter(|begun| begun.path == *path).count();
            assert!(times <= 1, "{path} was begun {times} times");
        }
    });
}

/// Only what was on its way to the lost replica fails, and of that only what cannot be sent again.
fn check(fault: Fault, lost: Duration, outcomes: &BTreeMap<String, (Method, Outcome)>) {
    let mut failed = 0;
    for (path, (method, outcome)) in outcomes {
        if outcome.status() == 200 {
            continue;
        }
        failed += 1;
        let began = outcome.began;
        // Whoever asked what the other machine has acknowledged waits for its answer.
        let waited = fault == Fault::CutOff && outcome.status() == 504;
        assert!(waited || outcome.status() == 502, "{path}: {outcome:?}");
        let under_way = began < lost && began + outcome.took > lost;
        // A POST on a kept connection may be on its way until it is known that nobody is there.
        let unknown = method == Method::POST
            && match fault {
                Fault::CutOff => began > lost,
                Fault::Crashed => began > lost && began < lost + 2 * MOST_LAG,
            };
        assert!(under_way || unknown, "lost at {lost:?}, {method} {path}: {outcome:?}");
    }
    let all = outcomes.len();
    assert!(all > 100 && failed < all / 10, "{failed} of {all} failed");
}

#[test]
fn a_replica_that_is_cut_off_costs_what_was_on_its_way_to_it_and_comes_back() {
    for seed in 0..15 {
        lose(seed, Fault::CutOff);
    }
}

#[test]
fn a_replica_that_crashes_costs_what_was_on_its_way_to_it_and_comes_back() {
    for seed in 0..15 {
        lose(seed, Fault::Crashed);
    }
}

/// Reads the head of a request; none when the connection ends.
pub(super) async fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(head)
}

#[test]
fn requests_that_wait_for_one_http2_connection_go_elsewhere_together() {
    for seed in 0..20 {
        let mut sim = network(seed, ROOMY);
        for name in ["h2-one", "two"] {
            replica(&mut sim, name, &Notes::default());
        }
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["h2-one", "two"]);
            cut("h2-one");
            let ask = |_| spawn_local(async { Caller::default().get("/").await });
            let asked: Vec<_> = (0..8).map(ask).collect();
            for one in asked {
                let outcome = one.await.unwrap();
                assert_eq!(outcome.status(), 200, "{outcome:?}");
                // The time that a connection may take once, and then what the other replica takes.
                assert!(outcome.took < millis(500) + 2 * MESSAGES, "{outcome:?}");
            }
        });
    }
}

/// Of two replicas one is cut off while connections to both are kept.
fn fall_silent(replicas: [&'static str; 2]) {
    for seed in 0..20 {
        let mut sim = network(seed, ROOMY);
        for name in replicas {
            replica(&mut sim, name, &Notes::default());
        }
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &replicas);
            for (path, most) in [("/?201", 0), ("/?101", 1_000)] {
                let ask = |_| spawn_local(async move { Caller::default().get(path).await });
                let asked: Vec<_> = (0..6).map(ask).collect();
                for one in asked {
                    let outcome = one.await.unwrap();
                    assert_eq!(outcome.status(), 200, "{outcome:?}");
                    assert!(outcome.took < millis(201 + most) + 2 * MESSAGES, "{outcome:?}");
                }
                cut(replicas[1]);
            }
            assert_eq!(ingress.counters.ejections.value(), 1);
        });
    }
}

#[test]
fn gets_on_kept_connections_to_a_silent_machine_count_against_it_and_are_asked_elsewhere() {
    fall_silent(["one", "two"]);
}

#[test]
fn gets_on_a_shared_connection_to_a_silent_machine_count_against_it_and_are_asked_elsewhere() {
    fall_silent(["h2-one", "h2-two"]);
}

/// Speaks HTTP/2 until the first request, of which it says that it does nothing with it.
async fn refuse(mut stream: TcpStream, ends: bool) {
    const HEADERS: u8 = 1;
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    // After stream 0, without an error; and REFUSED_STREAM (RFC 9113, sections 6.8 and 7).
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const RESET: &[u8] = &[0, 0, 4, 3, 0];
    const REFUSED: &[u8] = &[0, 0, 0, 7];
    let mut preface = [0; 24];
    let Ok(_) = stream.read_exact(&mut preface).await else { return };
    stream.write_all(SETTINGS).await.unwrap();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
        if head[3] == HEADERS {
            let refusal =
                if ends { GOAWAY.to_vec() } else { [RESET, &head[5..], REFUSED].concat() };
            stream.write_all(&refusal).await.unwrap();
        }
    }
}

#[test]
fn what_a_replica_did_nothing_with_is_asked_elsewhere_whatever_the_method() {
    for (seed, ends) in (0..10).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut sim = network(seed, ROOMY);
        let notes = Notes::default();
        machine(&mut sim, "h2-refusing", move |stream| refuse(stream, ends));
        replica(&mut sim, "two", &notes);
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["h2-refusing", "two"]);
            // So that the other one is always that with the fewest requests.
            let busy = |_| spawn_local(async { Caller::default().get("/busy?2001").await });
            let busy: Vec<_> = (0..2).map(busy).collect();
            sleep(millis(500)).await;
            for number in 0..4 {
                let path = format!("/{number}");
                let asked = request(Method::POST, &path, Vec::new());
                let outcome = Caller::default().ask(asked).await;
                assert_eq!(outcome.status(), 200, "{outcome:?}");
                let begun = notes.begun();
                assert_eq!(begun.iter().filter(|begun| begun.path == path).count(), 1);
            }
            assert!(ingress.counters.retries.value() >= 4, "they were not asked first");
            for one in busy {
                assert_eq!(one.await.unwrap().status(), 200);
            }
            ingress.publish(route(), &["h2-refusing"]);
            assert_eq!(Caller::default().get("/").await.status(), 502);
        });
    }
}

/// Answers what it is asked, and ends a connection on which nothing is asked for so long.
async fn hurry(mut stream: TcpStream, patience: Duration) {
    while let Ok(Some(_)) = timeout(patience, read_head(&mut stream)).await {
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

#[test]
fn a_kept_connection_that_ends_while_a_get_is_on_its_way_fails_none() {
    for seed in 0..20 {
        let mut sim = network(seed, ROOMY);
        for name in ["one", "two"] {
            machine(&mut sim, name, move |stream| hurry(stream, millis(60)));
        }
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["one", "two"]);
            let (mut draw, mut caller) = (Draw::new(seed), Caller::default());
            for count in 0..20 {
                let outcome = caller.get("/").await;
                assert_eq!(outcome.status(), 200, "request {count}: {outcome:?}");
                sleep(draw.millis(0, 120)).await;
            }
        });
    }
}

/// Accepts a connection, reads, and never answers.
async fn hang(mut stream: TcpStream) {
    while let Some(_unanswered) = read_head(&mut stream).await {}
}

fn check_time(outcome: &Outcome, status: u16, after: Duration) {
    assert_eq!(outcome.status(), status, "{outcome:?}");
    let in_time = outcome.took >= after && outcome.took <= after + MESSAGES;
    assert!(in_time, "{after:?} was the time for {outcome:?}");
}

#[test]
fn a_replica_that_hangs_is_given_up_when_the_time_of_the_options_or_the_route_is_over() {
    for seed in 0..12 {
        let mut sim = network(seed, ROOMY);
        replica(&mut sim, "one", &Notes::default());
        machine(&mut sim, "hanging", hang);
        machine(&mut sim, "h2-hanging", hang);
        let limits = Limits { unanswered_timeout: millis(8_000), ..options().limits };
        let ingress = Ingress::new(&mut sim, seed, Options { limits, ..options() });
        tell(sim, seed, async move {
            let mut caller = Caller::default();
            ingress.publish(route(), &["hanging"]);
            check_time(&caller.get("/").await, 504, millis(3_000));
            let asked = || request(Method::POST, "/", vec![b'x'; 100]);
            check_time(&caller.ask(asked()).await, 504, millis(3_000));
            ingress.publish(route(), &["h2-hanging"]);
            check_time(&caller.ask(asked()).await, 504, millis(3_000));
            let hurried = HttpRoute { timeout: Some(millis(700)), ..route() };
            ingress.publish(hurried, &["hanging"]);
            check_time(&caller.get("/").await, 504, millis(700));
            ingress.publish(route(), &["one"]);
            assert_eq!(caller.get("/").await.status(), 200);
            // Its link holds what is sent over the kept connection, and then what opens a new one.
            turmoil::hold(super::stage::INGRESS, "one");
            check_time(&caller.get("/").await, 504, millis(3_000));
            check_time(&caller.get("/").await, 502, millis(500));
            turmoil::release(super::stage::INGRESS, "one");
            assert_eq!(caller.get("/").await.status(), 200);
        });
    }
}

#[test]
fn a_request_is_held_while_there_is_no_replica_and_turned_away_when_it_stays_so() {
    for seed in 0..20 {
        let mut sim = network(seed, ROOMY);
        replica(&mut sim, "one", &Notes::default());
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            let held = HttpRoute { hold: millis(1_500), ..route() };
            ingress.publish(held.clone(), &[]);
            check_time(&Caller::default().get("/").await, 503, millis(1_500));
            let waiting = |number: u64| {
                spawn_local(async move { Caller::default().get(&format!("/{number}")).await })
            };
            let all: Vec<_> = (0..5).map(waiting).collect();
            sleep(millis(1_000)).await;
            let filled = now();
            ingress.publish(held, &["one"]);
            for one in all {
                let outcome = one.await.unwrap();
                assert_eq!(outcome.status(), 200, "{outcome:?}");
                // A connection, the request, its answer, and that on to the caller.
                let end = outcome.began + outcome.took;
                assert!(end > filled && end < filled + 4 * MOST_LAG + 8 * TICK, "{outcome:?}");
            }
        });
    }
}
