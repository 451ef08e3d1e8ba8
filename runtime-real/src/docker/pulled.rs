//! Which images were pulled for this cluster: these, and no others, are removed once they are not
//! needed any more.
//!
//! A name is written down before its pull and again with what came, so that a daemon that dies in
//! between knows of bytes that it asked for by digest; what a tag meant then, nobody knows. What an
//! engine had before, or somebody brought there by hand, is not ours to remove.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::RemoveImageOptions;
use mill_core::container::{OpError, OpOutput, PinnedImage};
use tokio::time::timeout;

use super::images::{exact, inspect};
use super::{CALL_WITHIN, Engine, errors};
use crate::private;

/// The file's name in the daemon's folder.
pub(crate) const FILE: &str = "pulled.json";

/// By the name that was asked for, the engine's id of what came; none while it was on its way.
type Names = BTreeMap<String, Option<String>>;

#[derive(Debug)]
pub(super) struct Pulled {
    /// Kept only in memory when absent.
    file: Option<PathBuf>,
    names: Mutex<Names>,
    /// Held while the file is written: the last one to write has all that is known.
    writing: tokio::sync::Mutex<()>,
}

impl Pulled {
    /// What an earlier daemon wrote down.
    pub fn read(file: Option<PathBuf>) -> Pulled {
        let names = file.as_deref().map(read).unwrap_or_default();
        Pulled { file, names: Mutex::new(names), writing: tokio::sync::Mutex::new(()) }
    }

    /// A pull begins, or has brought that image.
    pub async fn note(&self, name: &str, id: Option<&str>) {
        self.change(|names| {
            let id = id.map(str::to_owned);
            if names.get(name) == Some(&id) || (id.is_none() && names.contains_key(name)) {
                return false;
            }
            names.insert(name.to_owned(), id);
            true
        })
        .await;
    }

    /// Whether that name was pulled, and brought that image.
    pub fn is(&self, name: &str, id: Option<&str>) -> bool {
        let names = self.names.lock().expect("nothing that holds it can panic");
        names.get(name).is_some_and(|known| known.as_deref() == id)
    }

    async fn forget(&self, gone: &BTreeSet<String>) {
        self.change(|names| {
            let before = names.len();
            names.retain(|name, _| !gone.contains(name));
            names.len() != before
        })
        .await;
    }

    /// What was pulled; tags first, since the engine removes an image with its last tag.
    fn names(&self) -> Vec<(String, Option<String>)> {
        let names = self.names.lock().expect("nothing that holds it can panic");
        let mut names: Vec<_> = names.iter().map(|(n, id)| (n.clone(), id.clone())).collect();
        names.sort_by_key(|(name, _)| name.contains('@'));
        names
    }

    async fn change(&self, change: impl FnOnce(&mut Names) -> bool) {
        let changed = change(&mut self.names.lock().expect("nothing that holds it can panic"));
        let Some(file) = self.file.clone().filter(|_| changed) else { return };
        let _writing = self.writing.lock().await;
        let bytes = {
            let names = self.names.lock().expect("nothing that holds it can panic");
            serde_json::to_vec(&*names).expect("names are text")
        };
        let written = tokio::task::spawn_blocking(move || private::replace(&file, &bytes)).await;
        // An image that is never removed is better than one that is never pulled.
        if let Err(error) = written.expect("writing cannot panic") {
            tracing::warn!(%error, "cannot write down which images were pulled");
        }
    }
}

fn read(file: &Path) -> Names {
    let bytes = match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Names::new(),
        other => other,
    };
    let names = bytes.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
    names.unwrap_or_else(|error| {
        let file = file.display();
        tracing::warn!(%error, %file, "cannot read which images were pulled; those stay here");
        Names::new()
    })
}

impl Engine {
    /// Removes what was pulled and is not among these, but for what containers use.
    pub(super) async fn prune(
        &self,
        docker: &Docker,
        keep: &[PinnedImage],
    ) -> Result<OpOutput, OpError> {
        // The engine may know the same bytes by several names and digests.
        let mut kept = BTreeSet::new();
        for image in keep {
            kept.extend(inspect(docker, &exact(image)).await?.and_then(|image| image.id));
        }
        let pulled = self.pulled().names();
        let names: BTreeSet<&String> = pulled.iter().map(|(name, _)| name).collect();
        let mut gone = BTreeSet::new();
        let mut outcome = Ok(OpOutput::Done);
        for (name, id) in &pulled {
            match is_gone(docker, (name, id.as_deref()), &names, &kept).await {
                Ok(true) => _ = gone.insert(name.clone()),
                Ok(false) => {}
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.pulled().forget(&gone).await;
        outcome
    }
}

/// Whether a name that was pulled need not be remembered: it is gone now, was before, or is somebody
/// else's by now.
async fn is_gone(
    docker: &Docker,
    (name, id): (&String, Option<&str>),
    pulled: &BTreeSet<&String>,
    kept: &BTreeSet<String>,
) -> Result<bool, OpError> {
    let Some(image) = inspect(docker, name).await? else { return Ok(true) };
    let is_digest = name.contains('@');
    let is_other = id.is_some() && image.id.as_deref() != id;
    if is_other || (id.is_none() && !is_digest) {
        return Ok(true);
    }
    if image.id.as_ref().is_some_and(|id| kept.contains(id)) {
        return Ok(false);
    }
    // The tag of somebody else needs the digest beside it.
    let theirs = |tag: &String| !pulled.contains(tag);
    if is_digest && image.repo_tags.iter().flatten().any(theirs) {
        return Ok(true);
    }
    let doing = format!("removing the image {name}, which is not needed any more");
    let call = docker.remove_image(name, None::<RemoveImageOptions>, None);
    match timeout(CALL_WITHIN, call).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => Ok(true),
        // A container is made of it.
        Ok(Err(Error::DockerResponseServerError { status_code: 409, .. })) => Ok(false),
        Ok(Err(cause)) => Err(errors::of_image(&doing, &cause)),
        Err(_) => Err(errors::silent(&doing)),
    }
}
