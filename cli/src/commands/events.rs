//! `mill events`: what happened and why, and what happens from now on.

use std::time::Duration;

use mill_core::api::Answer;
use mill_core::cluster::history::Happened;

use super::deploy::{HOLD_MS, RETRY, TRIES, is_passing};
use super::past::moment;
use super::{Outcome, done};
use crate::args::Events;
use crate::client::Client;
use crate::failure::Failure;

/// `mill events`.
pub async fn events(args: Events, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let path = format!("/v1/events?stale={}", args.stale.wanted);
    let events = happened(client.get(&path).await?)?;
    let last = events.last().map(|event| event.number);
    let told: Vec<&Happened> = events.iter().filter(|event| is_about(event, &args.names)).collect();
    let surplus = told.len().saturating_sub(args.lines);
    told[surplus..].iter().for_each(|event| print(event, json));
    if told.is_empty() && !args.follow && !json {
        println!("nothing is kept that happened there");
    }
    if !args.follow {
        return done();
    }
    tokio::select! {
        failed = follow(&client, &args, last, json) => Err(failed),
        // Ctrl-C is how following ends.
        _ = tokio::signal::ctrl_c() => done(),
    }
}

/// Prints what happens until that cannot be known any more; also across a daemon that restarts and
/// a leader that changes meanwhile.
async fn follow(client: &Client, args: &Events, last: Option<u64>, json: bool) -> Failure {
    let (mut last, mut lost) = (last, 0);
    loop {
        let after = last.map(|last| format!("&after={last}")).unwrap_or_default();
        let stale = args.stale.wanted;
        let path = format!("/v1/events?stale={stale}&hold={HOLD_MS}{after}");
        let held = client.held(&path, Duration::from_millis(HOLD_MS)).await;
        let events = match held.and_then(happened) {
            Ok(events) => events,
            Err(failure) if lost < TRIES && is_passing(&failure) => {
                lost += 1;
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(failure) => return failure,
        };
        lost = 0;
        events.iter().filter(|event| is_about(event, &args.names)).for_each(|e| print(e, json));
        last = events.last().map(|event| event.number).or(last);
        if events.is_empty() && stale {
            // A copy is looked at, and does not hold what it is asked.
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn happened(answer: Answer) -> Result<Vec<Happened>, Failure> {
    match answer {
        Answer::Events(events) => Ok(events),
        _ => Err(Failure::Failed("the daemon answered something else".to_owned())),
    }
}

/// Whether an event is about one of those, or about a part of it; anything is if none is named.
fn is_about(event: &Happened, names: &[String]) -> bool {
    let about = |name: &String| {
        // What follows a slot is its alloc; names of services have hyphens of their own.
        let part = if name.contains('.') { '-' } else { '.' };
        let rest = event.subject.strip_prefix(name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(part))
    };
    names.is_empty() || names.iter().any(about)
}

fn print(event: &Happened, json: bool) {
    if json {
        println!("{}", serde_json::to_string(event).expect("an event is text and numbers"));
        return;
    }
    let mut lines = event.text.lines();
    let first = lines.next().unwrap_or_default();
    println!("{}  {:<14} {first}", moment(event.at), event.subject);
    lines.for_each(|line| println!("    {line}"));
}

#[cfg(test)]
mod tests {
    use mill_core::time::Wall;

    use super::*;

    #[test]
    fn a_service_is_meant_with_its_slots_and_allocs_and_no_other() {
        let about = |subject: &str, name: &str| {
            let (subject, text) = (subject.to_owned(), String::new());
            is_about(&Happened { number: 1, at: Wall(0), subject, text }, &[name.to_owned()])
        };
        assert!(about("web", "web") && about("web.0-k3f9", "web") && about("web.0-k3f9", "web.0"));
        assert!(!about("web2.0-k3f9", "web") && !about("web-api.0-k3f9", "web"));
        assert!(!about("web2.0-k3f9", "web") && !about("web.01-k3f9", "web.0"));
        assert!(about("#12", "#12") && !about("#12", "#1"));
    }
}
