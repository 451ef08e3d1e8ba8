//! Removing all that a daemon runs: when it was asked to, and after one that is gone for good.

use std::path::Path;
use std::time::Duration;

use mill_core::container::{ContainerOp, OpOutput};

use crate::docker::{Engine, EngineOptions};
use crate::identity;

/// How often containers are listed and removed until none should be left.
const REMOVE_TRIES: u32 = 20;
/// An empty list counts from this try on.
const REMOVE_LOOKS: u32 = 2;
/// Between two of these.
const REMOVE_PAUSE: Duration = Duration::from_millis(200);

/// Removes the containers of a daemon that is gone and whose directory will be: says whether `data`
/// is of such a one.
///
/// # Errors
/// When the engine refuses; says which containers are left.
pub async fn clear_left_behind(data: &Path, engine: Option<String>) -> Result<bool, String> {
    let Some((identity, _claim)) = identity::left_behind(data) else { return Ok(false) };
    let (cluster, node) = (identity.cluster, identity.node);
    let engine =
        Engine::connect(EngineOptions { host: engine, cluster, node, config: None, pulled: None })
            .map_err(|error| error.detail)?;
    remove_all(&engine).await?;
    Ok(true)
}

/// Removes every container of a cluster's node, until none is listed: the engine may still finish
/// what it was asked before who asked it ended.
pub(super) async fn remove_all(engine: &Engine) -> Result<(), String> {
    let mut failed = Vec::new();
    for tried in 0..REMOVE_TRIES {
        if tried > 0 {
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
        let listed = engine.perform(ContainerOp::List).await.map_err(|error| error.detail)?;
        let OpOutput::Containers(found) = listed else { return Ok(()) };
        // One empty list says nothing of a container that is being made.
        if found.is_empty() && tried >= REMOVE_LOOKS {
            return Ok(());
        }
        let removals = found.into_iter().map(|container| async move {
            let alloc = container.alloc;
            let removed = engine.perform(ContainerOp::Remove { alloc: alloc.clone() }).await;
            removed.err().map(|error| format!("{alloc}: {}", error.detail))
        });
        let ended = futures_util::future::join_all(removals).await;
        failed = ended.into_iter().flatten().collect();
    }
    match failed.is_empty() {
        true => Err("others appear as fast as they are removed".to_owned()),
        false => Err(failed.join("; ")),
    }
}
