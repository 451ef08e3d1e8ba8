//! Tables that change while requests come: replicas are replaced one after the other, as in a
//! rolling update.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use crate::options::Options;

use super::people::{Caller, request};
use super::stage::{
    Draw, Ingress, MOST_LAG, Notes, ROOMY, TICK, network, now, replica, route, tell,
};

const CALLERS: u64 = 4;

/// Asks, and holds each answer to be what a replica says, until it is over.
async fn call(number: u64, seed: u64, over: Rc<Cell<bool>>, notes: Notes) {
    let mut draw = Draw::new(seed * CALLERS + number);
    let mut caller = Caller::default();
    for count in 0.. {
        if over.get() {
            return;
        }
        if draw.below(3) == 0 {
            caller = Caller::default();
        }
        let (method, length) = match draw.below(3) {
            0 => (Method::POST, draw.below(3_000)),
            _ => (Method::GET, 0),
        };
        let path = format!("/{number}.{count}");
        notes.note(format_args!("caller asks {path}"));
        let asked = format!("{path}?{}", draw.below(50));
        let outcome = caller.ask(request(method, &asked, vec![b'x'; length as usize])).await;
        notes.note(format_args!("caller hears {outcome:?}"));
        let (status, text) = outcome.answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(status == 200, "{path}: {status} {text}");
        assert!(text.ends_with(&format!(" {path} {length}")), "{path}: {text}");
        sleep(draw.millis(0, 30)).await;
    }
}

/// Which replicas the tables named, from when on.
#[derive(Clone, Debug, Default)]
struct Tables(Vec<(Duration, Vec<&'static str>)>);

impl Tables {
    fn publish(&mut self, ingress: &Ingress, notes: &Notes, replicas: &[&'static str]) {
        ingress.publish(route(), replicas);
        notes.note(format_args!("the tables name {replicas:?}"));
        self.0.push((now(), replicas.to_vec()));
    }

    /// Whatever began at a replica was sent while the tables named it.
    fn check(&self, notes: &Notes) {
        for begun in notes.begun() {
            let sent_after = begun.at.saturating_sub(MOST_LAG + 2 * TICK);
            let ends = self.0.iter().skip(1).map(|(until, _)| *until).chain([Duration::MAX]);
            let named = self.0.iter().zip(ends).any(|((from, replicas), until)| {
                replicas.contains(&begun.replica) && *from <= begun.at && sent_after <= until
            });
            assert!(named, "{begun:?} was sent to a replica that had left: {:?}", self.0);
        }
    }
}

/// Callers who ask until they are told that it is over.
struct Callers {
    over: Rc<Cell<bool>>,
    callers: Vec<JoinHandle<()>>,
}

impl Callers {
    fn begin(seed: u64, notes: &Notes) -> Callers {
        let over = Rc::new(Cell::new(false));
        let call = |number| spawn_local(call(number, seed, Rc::clone(&over), notes.clone()));
        let callers = (0..CALLERS).map(call).collect();
        Callers { over, callers }
    }

    async fn end(self) {
        self.over.set(true);
        for caller in self.callers {
            caller.await.unwrap();
        }
    }
}

fn options() -> Options {
    Options { workers: 1, ..Options::default() }
}

/// Replaces all replicas, one after the other; what was seen of it.
fn update(seed: u64, old: [&'static str; 3], new: [&'static str; 3]) -> Vec<String> {
    let mut sim = network(seed, ROOMY);
    let notes = Notes::default();
    let before = old.map(|name| replica(&mut sim, name, &notes));
    let after = new.map(|name| replica(&mut sim, name, &notes));
    for switch in &after {
        switch.send_replace(false);
    }
    let ingress = Ingress::new(&mut sim, seed, options());
    let told = notes.clone();
    tell(sim, seed, async move {
        let (mut serving, mut tables) = (old, Tables::default());
        tables.publish(&ingress, &told, &serving);
        let callers = Callers::begin(seed, &told);
        let mut draw = Draw::new(seed);
        for at in 0..3 {
            sleep(draw.millis(50, 150)).await;
            after[at].send_replace(true);
            sleep(2 * TICK).await;
            serving[at] = new[at];
            tables.publish(&ingress, &told, &serving);
            // What is under way is answered by then: four messages, a connection and the work.
            sleep(draw.millis(400, 600)).await;
            before[at].send_replace(false);
        }
        sleep(draw.millis(50, 150)).await;
        callers.end().await;
        tables.check(&told);
    });
    notes.trace()
}

/// Tables that name others of four replicas every few moments.
fn flap(seed: u64, replicas: [&'static str; 4]) {
    let mut sim = network(seed, ROOMY);
    let notes = Notes::default();
    for name in replicas {
        replica(&mut sim, name, &notes);
    }
    let ingress = Ingress::new(&mut sim, seed, options());
    tell(sim, seed, async move {
        let (mut draw, mut tables) = (Draw::new(seed), Tables::default());
        tables.publish(&ingress, &notes, &replicas);
        let callers = Callers::begin(seed, &notes);
        for _ in 0..60 {
            sleep(draw.millis(5, 40)).await;
            let some = 1 + draw.below(14);
            let chosen = (0..4).filter(|at| some >> at & 1 == 1).map(|at| replicas[at]);
            tables.publish(&ingress, &notes, &chosen.collect::<Vec<_>>());
        }
        callers.end().await;
        tables.check(&notes);
    });
}

#[test]
fn an_update_fails_no_request_and_none_begins_at_a_replica_that_left() {
    for seed in 0..20 {
        update(seed, ["a1", "a2", "a3"], ["b1", "b2", "b3"]);
    }
}

#[test]
fn an_update_of_replicas_that_speak_http2_fails_no_request_either() {
    for seed in 0..20 {
        update(seed, ["h2-a1", "h2-a2", "h2-a3"], ["h2-b1", "h2-b2", "h2-b3"]);
    }
}

#[test]
fn tables_that_change_all_the_time_fail_no_request_and_each_is_followed_at_once() {
    for seed in 0..20 {
        flap(seed, ["one", "two", "three", "four"]);
    }
}

#[test]
fn tables_of_replicas_that_speak_http2_are_followed_at_once() {
    for seed in 0..20 {
        flap(seed, ["h2-one", "h2-two", "h2-three", "h2-four"]);
    }
}

#[test]
fn equal_seeds_give_equal_traces() {
    let (old, new) = (["a1", "a2", "a3"], ["h2-b1", "h2-b2", "h2-b3"]);
    let trace = update(7, old, new);
    assert!(trace.len() > 100, "{trace:?}");
    assert_eq!(trace, update(7, old, new));
    assert_ne!(trace, update(8, old, new));
}
