//! `mill deploy`: shows the plan, asks, starts the deploy and watches it to its end.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use mill_core::api::view::DeployView;
use mill_core::api::{Answer, ErrorCode};
use mill_core::cluster::deploy::DeployState;
use mill_core::config::model::Project;
use mill_core::plan::Plan;
use serde_json::json;

use super::{Outcome, config, done, plan, pretty};
use crate::args::Deploy;
use crate::client::Client;
use crate::failure::Failure;
use crate::render::progress::Progress;

/// How long the daemon may hold a question about a deploy that does not move. What a deploy waits
/// for is not always a change of the replicated state, so people are not left longer without it.
const HOLD_MS: u64 = 2_000;
/// Between two tries to reach a daemon that was lost while a deploy is watched.
const RETRY: Duration = Duration::from_millis(500);
/// Tries until the watcher gives up; the deploy goes on without it.
const TRIES: u32 = 120;

/// `mill deploy`.
pub async fn deploy(args: Deploy, json: bool) -> Outcome {
    let loaded = config::load(&args.files, json)?.supported(json)?;
    let project = &loaded.parsed.project;
    let client = Client::new(&args.target.address);
    let plan = plan::ask(&client, project).await?;
    if args.dry_run || !json {
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
    if !args.yes {
        confirm(json)?;
    }
    let Some(number) = start(&client, project, &plan, args.wait).await? else { return done() };
    finish(&client, number, args.detach, json).await
}

/// Starts it: the number, or `None` if there is nothing to do any more.
pub async fn start(
    client: &Client,
    project: &Project,
    plan: &Plan,
    wait: bool,
) -> Result<Option<u64>, Failure> {
    loop {
        let body = json!({ "project": project, "expect": plan.fingerprint() });
        match client.post("/v1/deploys", &body).await {
            Ok(Answer::Started { number, .. }) => return Ok(Some(number)),
            Ok(_) => return Ok(None),
            Err(Failure::Refused(error)) if wait && error.code == ErrorCode::Conflict => {
                eprintln!("waiting: {}", error.message);
                let latest: Result<Answer, Failure> =
                    client.get(&format!("/v1/deploys/latest?hold={HOLD_MS}")).await;
                if let Ok(Answer::Deployment(view)) = latest
                    && !view.state.is_end()
                {
                    let path =
                        format!("/v1/deploys/latest?hold={HOLD_MS}&seen={}", view.fingerprint);
                    client.get(&path).await?;
                }
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Watches a deploy that was started to its end, unless told not to.
pub async fn finish(client: &Client, number: u64, detach: bool, json: bool) -> Outcome {
    if detach {
        match json {
            true => println!("{}", pretty(&json!({ "deploy": number }))),
            false => println!("deploy #{number} goes on; `mill status` shows how it is doing"),
        }
        return done();
    }
    tokio::select! {
        code = watch(client, number, json) => code,
        _ = tokio::signal::ctrl_c() => {
            println!("\ndetached: deploy #{number} goes on; `mill status` shows how it is doing");
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
async fn follow(client: &Client, number: u64, json: bool) -> Result<DeployView, Failure> {
    let mut progress = (!json).then(|| Progress::new(number));
    let mut seen = None;
    let mut lost = 0;
    loop {
        let mut path = format!("/v1/deploys/{number}?hold={HOLD_MS}");
        if let Some(seen) = seen {
            path.push_str(&format!("&seen={seen}"));
        }
        let view = match client.get(&path).await {
            Ok(Answer::Deployment(view)) => view,
            Ok(other) => {
                return Err(Failure::Failed(format!(
                    "the daemon answered something else: {other:?}"
                )));
            }
            Err(failure) if lost < TRIES && is_passing(&failure) => {
                lost += 1;
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(failure) => {
                if let Some(progress) = &progress {
                    progress.clear();
                }
                return Err(failure);
            }
        };
        lost = 0;
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
fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable(_) => true,
        Failure::Refused(error) => error.code == ErrorCode::NoLeader,
        Failure::Failed(_) | Failure::Said | Failure::Usage(_) => false,
    }
}

fn confirm(json: bool) -> Result<(), Failure> {
    if json || !std::io::stdin().is_terminal() {
        let message = "nobody is there to say yes; use --yes to deploy without asking";
        return Err(Failure::Usage(message.to_owned()));
    }
    print!("deploy this? [y/N] ");
    // A prompt that cannot be shown is answered by what is read.
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read.map(|_| answer.trim().to_lowercase()) {
        Ok(answer) if answer == "y" || answer == "yes" => Ok(()),
        Ok(_) | Err(_) => Err(Failure::Failed("not deployed; nothing was changed".to_owned())),
    }
}
