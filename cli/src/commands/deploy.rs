//! `mill deploy`: shows the plan, asks, starts the deploy and watches it to its end.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use mill_core::api::view::DeployView;
use mill_core::api::{Answer, ApiError, ErrorCode};
use mill_core::cluster::deploy::DeployState;
use mill_core::config::model::Project;
use mill_core::plan::Plan;
use serde_json::json;

use super::{Outcome, config, done, plan, pretty};
use crate::args::Deploy;
use crate::client::Client;
use crate::failure::Failure;
use crate::render::progress::{self, Progress};

/// How long the daemon may hold a question about a deploy that does not move. What a deploy waits
/// for is not always a change of the replicated state, so people are not left longer without it.
pub const HOLD_MS: u64 = 2_000;
/// Between two tries to reach a daemon that was lost while a deploy is watched.
pub const RETRY: Duration = Duration::from_millis(500);
/// Tries until the watcher gives up; the deploy goes on without it.
pub const TRIES: u32 = 120;

/// Refusals that a waiter takes while no deploy runs: one may have ended just then.
const VAIN_MAX: u32 = 3;

/// `mill deploy`.
pub async fn deploy(args: Deploy, json: bool) -> Outcome {
    let loaded = config::load(&args.files, json)?.supported(json)?;
    let project = &loaded.parsed.project;
    let client = Client::new(&args.target.address)?;
    let mut waiting = Waiting::default();
    let mut agreed = None;
    let number = loop {
        let plan = plan::ask(&client, project).await?;
        let is_known = agreed.as_ref() == Some(&plan.fingerprint());
        if args.dry_run || !(json || is_known) {
            match json {
                true => println!("{}", pretty(&plan)),
                false => print!("{plan}"),
            }
        }
        if args.dry_run {
            return done();
        }
        if plan.is_empty() {
            if json {
                println!("{}", pretty(&json!({ "unchanged": true })));
            }
            return done();
        }
        if !(args.yes || is_known) {
            confirm("deploy this?", json)?;
        }
        agreed = Some(plan.fingerprint());
        match start(&client, project, &plan, args.keep_going).await {
            Ok(Some(number)) => break number,
            Ok(None) => return done(),
            Err(Failure::Refused(error)) if args.wait && waiting.is_for(&error) => {
                waiting.wait(&client, &error).await?;
            }
            Err(failure) => return Err(failure),
        }
    };
    finish(&client, number, args.detach, json).await
}

/// Starts it: the number, or `None` if there is nothing to do any more.
pub async fn start(
    client: &Client,
    project: &Project,
    plan: &Plan,
    keep_going: bool,
) -> Result<Option<u64>, Failure> {
    let expect = plan.fingerprint();
    let body = json!({ "project": project, "expect": expect, "keep_going": keep_going });
    match client.post("/v1/deploys", &body).await? {
        Answer::Started { number, .. } => Ok(Some(number)),
        _ => Ok(None),
    }
}

/// Waits for the deploys of others. What each leaves needs a plan of its own.
#[derive(Default)]
struct Waiting {
    /// What was last said to be waited for.
    told: Option<String>,
    /// Refusals in a row while no deploy ran: then it is something else that is in the way.
    vain: u32,
}

impl Waiting {
    /// Whether what was refused may be done after a wait.
    fn is_for(&self, error: &ApiError) -> bool {
        match error.code {
            // A changed plan: another deploy came, or ended, between our plan and our start.
            ErrorCode::Conflict | ErrorCode::PlanChanged => self.vain < VAIN_MAX,
            ErrorCode::Invalid
            | ErrorCode::Unsupported
            | ErrorCode::Forbidden
            | ErrorCode::NotFound
            | ErrorCode::NoLeader
            | ErrorCode::Unknown
            | ErrorCode::Busy
            | ErrorCode::Internal => false,
        }
    }

    async fn wait(&mut self, client: &Client, error: &ApiError) -> Result<(), Failure> {
        if error.code == ErrorCode::Conflict && self.told.as_ref() != Some(&error.message) {
            eprintln!("waiting: {}", error.message);
            self.told = Some(error.message.clone());
        }
        let (mut seen, mut lost) = (None, 0);
        let _turning = progress::Waiting::on("another deploy is under way");
        loop {
            match deployment(client, "latest", seen, &mut lost).await? {
                Some(view) if view.state.is_end() => break,
                Some(view) => seen = Some(view.fingerprint),
                None => {}
            }
        }
        self.vain = if seen.is_some() { 0 } else { self.vain + 1 };
        if self.vain > 0 {
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    }
}

/// What is new of a deploy; `None` if the daemon is lost just now and is asked again.
async fn deployment(
    client: &Client,
    which: &str,
    seen: Option<u64>,
    lost: &mut u32,
) -> Result<Option<DeployView>, Failure> {
    let seen = seen.map(|seen| format!("&seen={seen}")).unwrap_or_default();
    let path = format!("/v1/deploys/{which}?hold={HOLD_MS}{seen}");
    match client.held(&path, Duration::from_millis(HOLD_MS)).await {
        Ok(Answer::Deployment(view)) => {
            *lost = 0;
            Ok(Some(view))
        }
        Ok(other) => Err(Failure::Failed(format!("the daemon answered something else: {other:?}"))),
        Err(failure) if *lost < TRIES && is_passing(&failure) => {
            *lost += 1;
            tokio::time::sleep(RETRY).await;
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Watches a deploy that was started to its end, unless told not to.
pub async fn finish(client: &Client, number: u64, detach: bool, json: bool) -> Outcome {
    if detach {
        match json {
            true => println!("{}", pretty(&json!({ "deploy": number }))),
            false => {
                println!("deploy #{number} goes on; `mill deploys attach {number}` watches it")
            }
        }
        return done();
    }
    tokio::select! {
        code = watch(client, number, json) => code,
        _ = tokio::signal::ctrl_c() => {
            // Standard output is a program's with --json.
            eprintln!("\ndetached: deploy #{number} goes on; `mill deploys attach {number}` watches it");
            done()
        }
    }
}

/// Watches a deploy to its end; the exit code says whether it succeeded.
pub async fn watch(client: &Client, number: u64, json: bool) -> Outcome {
    let view = follow(client, number, json).await?;
    Ok(ExitCode::from(u8::from(view.state != DeployState::Succeeded)))
}

/// Follows a deploy to its end, also across a daemon that restarts meanwhile.
pub async fn follow(client: &Client, number: u64, json: bool) -> Result<DeployView, Failure> {
    let mut progress = (!json).then(|| Progress::new(number));
    let mut seen = None;
    let mut lost = 0;
    loop {
        let view = match deployment(client, &number.to_string(), seen, &mut lost).await {
            Ok(Some(view)) => view,
            Ok(None) => continue,
            Err(failure) => {
                if let Some(progress) = &progress {
                    progress.clear();
                }
                return Err(failure);
            }
        };
        if json && seen != Some(view.fingerprint) {
            println!("{}", serde_json::to_string(&view).expect("a view has text keys only"));
        }
        seen = Some(view.fingerprint);
        if let Some(progress) = &mut progress {
            progress.show(&view);
        }
        if view.state.is_end() {
            if let Some(progress) = progress {
                progress.finish(&view);
            }
            return Ok(view);
        }
    }
}

/// Whether it may work in a moment: a daemon that restarts, a leader that changes.
pub fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable(_) => true,
        Failure::Refused(error) => error.code == ErrorCode::NoLeader,
        Failure::Failed(_) | Failure::Said | Failure::Usage(_) => false,
    }
}

/// Asks a person; nothing happens without a yes.
pub fn confirm(question: &str, json: bool) -> Result<(), Failure> {
    if json || !std::io::stdin().is_terminal() {
        let message = "nobody is there to say yes; use --yes to go ahead without asking";
        return Err(Failure::Usage(message.to_owned()));
    }
    print!("{question} [y/N] ");
    // A prompt that cannot be shown is answered by what is read.
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read.map(|_| answer.trim().to_lowercase()) {
        Ok(answer) if answer == "y" || answer == "yes" => Ok(()),
        Ok(_) | Err(_) => Err(Failure::Failed("nothing was changed".to_owned())),
    }
}
