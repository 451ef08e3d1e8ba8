//! `mill run` and `mill runs`: a task executed once, its output as it is printed, and its exit code.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt as _;
use mill_core::api::Answer;
use mill_core::api::view::RunView;
use mill_core::cluster::task::{Cause, Outcome as Ended};
use mill_core::name::AllocId;
use mill_core::units::Millis;
use mill_runtime_real::LOG_LINES_MAX;
use serde::Deserialize;
use serde_json::json;

use super::past::moment;
use super::show::{stale, unexpected};
use super::{Outcome, deploy, done, pretty};
use crate::args::{Run, RunsCommand, RunsLs, WhichRun};
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, painted, table};

/// How long the daemon holds a question about a run that has not changed.
const HOLD_MS: u64 = 15_000;
/// Tries in a row to reach a daemon that was lost.
const TRIES: u32 = 30;
/// Between two of them.
const RETRY: Duration = Duration::from_secs(1);

/// `mill run`.
pub async fn run(args: Run, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let env: BTreeMap<String, String> = args.env.into_iter().collect();
    let path = format!("/v1/tasks/{}/runs", args.task);
    let overrides = json!({ "env": env, "command": args.command });
    let Answer::RunStarted { number } = client.post(&path, &overrides).await? else {
        return unexpected();
    };
    if args.detach {
        match json {
            true => println!("{}", pretty(&json!({ "run": number }))),
            false => println!("run {number} goes on; `mill runs show {number}` says how far it is"),
        }
        return done();
    }
    tokio::select! {
        ended = follow(&client, number, json) => ended,
        _ = tokio::signal::ctrl_c() => {
            // Standard output is the run's.
            eprintln!("\ndetached: run {number} goes on; `mill runs kill {number}` ends it");
            done()
        }
    }
}

/// Prints what a run prints, to its end, and exits as it does.
async fn follow(client: &Client, number: u64, json: bool) -> Outcome {
    let mut watch = Watch { client, number, seen: None, lost: 0 };
    let mut told = None;
    let placed = loop {
        let view = watch.next().await?;
        if view.alloc.is_some() || view.outcome.is_some() {
            break view;
        }
        if view.waiting.first() != told.as_ref() {
            told = view.waiting.first().cloned();
            told.iter().for_each(|waiting| eprintln!("waiting: {waiting}"));
        }
    };
    let mut output = Output { client, json, printed: Printed::default() };
    let view = match (placed.alloc.clone(), placed.outcome.is_some()) {
        (Some(alloc), false) => {
            let ended = tokio::select! {
                ended = watch.end() => ended?,
                never = output.follow(&alloc) => match never {},
            };
            output.rest(&alloc).await;
            ended
        }
        (Some(alloc), true) => {
            output.rest(&alloc).await;
            placed
        }
        (None, _) => placed,
    };
    if json {
        println!("{}", serde_json::to_string(&view).expect("a view has text keys only"));
    }
    Ok(exit(&view, json))
}

/// As the container exited; 1 if it did not come to its end.
fn exit(view: &RunView, json: bool) -> ExitCode {
    match &view.outcome {
        Some(Ended::Exited(exit)) => {
            if exit.out_of_memory && exit.code != 0 && !json {
                eprintln!("error: run {} {}", view.number, view.state);
            }
            ExitCode::from(u8::try_from(exit.code).unwrap_or(1))
        }
        Some(_) | None => {
            if !json {
                eprintln!("error: run {} {}", view.number, view.state);
                let trouble = view.trouble.iter();
                trouble.for_each(|trouble| eprintln!("{}", trouble.detail));
            }
            ExitCode::from(1)
        }
    }
}

/// Asks again and again how far a run is.
struct Watch<'a> {
    client: &'a Client,
    number: u64,
    seen: Option<u64>,
    lost: u32,
}

impl Watch<'_> {
    /// What is new of it, also across a daemon that restarts meanwhile.
    async fn next(&mut self) -> Result<RunView, Failure> {
        loop {
            let seen = self.seen.map(|seen| format!("&seen={seen}")).unwrap_or_default();
            let path = format!("/v1/runs/{}?hold={HOLD_MS}{seen}", self.number);
            match self.client.held(&path, Duration::from_millis(HOLD_MS)).await {
                Ok(Answer::Run(view)) => {
                    self.lost = 0;
                    self.seen = Some(view.fingerprint);
                    return Ok(*view);
                }
                Ok(other) => {
                    let message = format!("the daemon answered something else: {other:?}");
                    return Err(Failure::Failed(message));
                }
                Err(failure) if self.lost < TRIES && deploy::is_passing(&failure) => {
                    self.lost += 1;
                    tokio::time::sleep(RETRY).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn end(&mut self) -> Result<RunView, Failure> {
        loop {
            let view = self.next().await?;
            if view.outcome.is_some() {
                return Ok(view);
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    Line { at: u64, stream: String, text: String },
    Trouble { error: String },
}

/// What a run prints, each line once.
struct Output<'a> {
    client: &'a Client,
    json: bool,
    printed: Printed,
}

/// Up to where the output was printed.
#[derive(Clone, Copy, Default)]
struct Printed {
    /// When the last line was written.
    at: u64,
    /// Lines of that very millisecond that were printed.
    lines: u64,
}

impl Output<'_> {
    /// Prints what comes until that is not wanted any more, also across a daemon that restarts. How
    /// the run ends does not depend on its output.
    async fn follow(&mut self, alloc: &AllocId) -> Infallible {
        let mut told = false;
        loop {
            if let Err(failure) = self.once(alloc, true).await
                && !deploy::is_passing(&failure)
                && !std::mem::replace(&mut told, true)
            {
                cannot_be_read(&failure);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Prints what is left of a run that is over.
    async fn rest(&mut self, alloc: &AllocId) {
        if let Err(failure) = self.once(alloc, false).await {
            cannot_be_read(&failure);
        }
    }

    async fn once(&mut self, alloc: &AllocId, follow: bool) -> Result<(), Failure> {
        let Printed { at, .. } = self.printed;
        let path = format!(
            "/v1/logs?names={alloc}&all=true&follow={follow}&tail={LOG_LINES_MAX}&since={at}"
        );
        let mut events = self.client.events(&path).await?;
        let mut again = self.printed.lines;
        while let Some(event) = events.next().await {
            match serde_json::from_str(&event) {
                // What was printed before comes again, from its last millisecond on.
                Ok(Event::Line { at: when, .. }) if when == at && again > 0 => again -= 1,
                Ok(Event::Line { at, stream, text }) => self.print(at, &stream, &text, &event),
                Ok(Event::Trouble { error }) => eprintln!("error: {error}"),
                // A newer daemon may tell more than this version knows of.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn print(&mut self, at: u64, stream: &str, text: &str, event: &str) {
        match (self.json, stream) {
            (true, _) => println!("{event}"),
            (false, "stderr") => eprintln!("{text}"),
            (false, _) => println!("{text}"),
        }
        self.printed = match at.cmp(&self.printed.at) {
            Ordering::Greater => Printed { at, lines: 1 },
            Ordering::Equal => Printed { lines: self.printed.lines + 1, ..self.printed },
            // Output and errors may come in another order than that in which they were written.
            Ordering::Less => self.printed,
        };
    }
}

fn cannot_be_read(failure: &Failure) {
    let why = match failure {
        Failure::Failed(text) | Failure::Usage(text) | Failure::Unreachable(text) => text.clone(),
        Failure::Refused(error) => error.to_string(),
        Failure::Said => return,
    };
    eprintln!("error: the output of this run cannot be read just now: {why}");
}

/// `mill runs ...`.
pub async fn runs(command: RunsCommand, json: bool) -> Outcome {
    match command {
        RunsCommand::Ls(args) => ls(args, json).await,
        RunsCommand::Show(args) => show(args, json).await,
        RunsCommand::Kill(args) => kill(args, json).await,
    }
}

async fn ls(args: RunsLs, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let path = stale("/v1/runs", args.stale);
    let path = match &args.task {
        Some(task) => format!("{path}&task={task}"),
        None => path,
    };
    let Answer::Runs(mut views) = client.get(&path).await? else { return unexpected() };
    views.truncate(args.lines);
    match json {
        true => println!("{}", pretty(&views)),
        false if views.is_empty() => println!("no runs yet; `mill run` executes a task"),
        false => print_runs(&views),
    }
    done()
}

fn print_runs(views: &[RunView]) {
    let mut table = table::table(&["RUN", "ASKED", "WHY", "NODE", "TOOK", "STATE"]);
    for view in views {
        let colour = match &view.outcome {
            Some(outcome) if outcome.is_success() => render::GREEN,
            Some(_) => render::RED,
            None => render::YELLOW,
        };
        let took = view.ended.map(|ended| Millis(ended.0.saturating_sub(view.asked.0)).to_string());
        table.add_row([
            view.id.to_string(),
            moment(view.asked),
            why(view.cause),
            view.node.clone().unwrap_or_default(),
            took.unwrap_or_default(),
            painted(&view.state, colour),
        ]);
    }
    table::print(&table);
}

fn why(cause: Cause) -> String {
    match cause {
        Cause::Person => "by hand".to_owned(),
        Cause::Gate(deploy) => format!("deploy #{deploy}"),
        Cause::Schedule(due) => format!("due {}", moment(due)),
    }
}

async fn show(args: WhichRun, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let Answer::Run(view) = client.get(&format!("/v1/runs/{}", args.run)).await? else {
        return unexpected();
    };
    match json {
        true => println!("{}", pretty(&view)),
        false => print_run(&view),
    }
    done()
}

fn print_run(view: &RunView) {
    println!("run {}: {}", view.id, view.state);
    println!("  asked   {}, {}", moment(view.asked), why(view.cause));
    view.ended.iter().for_each(|ended| println!("  ended   {}", moment(*ended)));
    println!("  image   {} (deploy #{})", view.image, view.version);
    if let Some(alloc) = &view.alloc {
        let node = view.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
        println!("  alloc   {alloc}{node}; `mill logs --all {alloc}` shows its output");
    }
    view.waiting.iter().for_each(|waiting| println!("  waiting {waiting}"));
    if let Some(trouble) = &view.trouble {
        println!("  {}", trouble.detail);
        trouble.output.iter().for_each(|line| println!("    {line}"));
    }
}

async fn kill(args: WhichRun, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let path = format!("/v1/runs/{}/kill", args.run);
    let Answer::Done = client.post(&path, &json!({})).await? else { return unexpected() };
    match json {
        true => println!("{}", pretty(&json!({ "killed": args.run }))),
        false => println!("run {} is asked to stop, and killed if it does not", args.run),
    }
    done()
}
