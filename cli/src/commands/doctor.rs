//! `mill doctor`: what a node needs of this machine.

use mill_runtime_real::doctor::{self, Grade};

use super::{Outcome, done, pretty};
use crate::args::Doctor;
use crate::failure::Failure;
use crate::render::{self, painted};

/// `mill doctor`.
pub async fn doctor(args: Doctor, json: bool) -> Outcome {
    let found = doctor::examine(args.engine, &args.data, args.ports.0).await;
    if json {
        println!("{}", pretty(&found));
    } else {
        for finding in &found {
            let sign = match finding.grade {
                Grade::Fine => painted("ok  ", render::GREEN),
                Grade::Warning => painted("warn", render::YELLOW),
                Grade::Broken => painted("FAIL", render::RED),
            };
            println!("{sign} {}: {}", finding.subject, finding.seen);
            if let Some(remedy) = &finding.remedy {
                println!("     {remedy}");
            }
        }
    }
    match found.iter().any(|finding| finding.grade == Grade::Broken) {
        true if json => Err(Failure::Said),
        true => Err(Failure::Failed("this machine cannot run Mill as it is".to_owned())),
        false => done(),
    }
}
