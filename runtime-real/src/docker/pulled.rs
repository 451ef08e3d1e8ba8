//! Which images were pulled for this cluster: these, and no others, are removed once they are not
//! needed any more.
//!
//! Written down before each pull, so that a daemon that dies in between knows of it. What an engine
//! had before, or somebody brought there by hand, is not ours to remove.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::RemoveImageOptions;
use mill_core::container::{OpError, OpOutput, PinnedImage};
use tokio::time::timeout;

use super::images::{exact, inspect, pinned};
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
}

impl Pulled {
    /// What an earlier daemon wrote down.
    pub fn read(file: Option<PathBuf>) -> Pulled {
        let names = file.as_deref().map(read).unwrap_or_default();
        Pulled { file, names: Mutex::new(names) }
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
        let bytes = {
            let mut names = self.names.lock().expect("nothing that holds it can panic");
            if !change(&mut names) {
                return;
            }
            serde_json::to_vec(&*names).expect("names are text")
        };
        let Some(file) = self.file.clone() else { return };
        let written = tokio::task::spawn_blocking(move || private::replace(&file, &bytes)).await;
        // An image that is never removed is better than one that is never pulled.
        if let Err(error) = written.expect("writing cannot panic") {
            tracing::warn!(%error, "cannot write down which images were pulled");
        }
    }
}

fn read(file: &Path) -> Names {
    match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Names::new(),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "cannot read which images were pulled");
            Names::new()
        }
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, file = %file.display(), "this file is broken; images pulled before it are not removed by Mill any more");
            Names::new()
        }),
    }
}

impl Engine {
    /// Removes what was pulled and is not among these, but for what containers use.
    pub(super) async fn prune(
        &self,
        docker: &Docker,
        keep: &[PinnedImage],
    ) -> Result<OpOutput, OpError> {
        let keep: BTreeSet<String> = keep.iter().map(exact).collect();
        let mut gone = BTreeSet::new();
        let mut outcome = Ok(OpOutput::Done);
        for (name, id) in self.pulled().names() {
            match is_gone(docker, &name, id.as_deref(), &keep).await {
                Ok(true) => _ = gone.insert(name),
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

/// Whether a name that was pulled need not be remembered: it is gone now, was before, or means what
/// somebody else brought.
async fn is_gone(
    docker: &Docker,
    name: &str,
    id: Option<&str>,
    keep: &BTreeSet<String>,
) -> Result<bool, OpError> {
    let Some(image) = inspect(docker, name).await? else { return Ok(true) };
    if id.is_some() && image.id.as_deref() != id {
        return Ok(true);
    }
    let means = pinned(name, &image).map(|image| exact(&image));
    if keep.contains(name) || means.is_ok_and(|exact| keep.contains(&exact)) {
        return Ok(false);
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
