//! `mill restart` and `mill scale`: deploys of one service that come without a config.

use mill_core::api::Answer;
use serde_json::json;

use super::{Outcome, deploy};
use crate::args::{Restart, Scale};
use crate::client::Client;
use crate::failure::Failure;

/// `mill restart`.
pub async fn restart(args: Restart, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let path = format!("/v1/services/{}/restart", args.service);
    let number = started(client.post(&path, &json!({})).await?)?;
    deploy::finish(&client, number, args.detach, json).await
}

/// `mill scale`.
pub async fn scale(args: Scale, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let path = format!("/v1/services/{}/scale", args.service);
    let number = started(client.post(&path, &json!({ "replicas": args.replicas })).await?)?;
    deploy::finish(&client, number, args.detach, json).await
}

fn started(answer: Answer) -> Result<u64, Failure> {
    match answer {
        Answer::Started { number, .. } => Ok(number),
        other => Err(Failure::Failed(format!("the daemon answered something else: {other:?}"))),
    }
}
