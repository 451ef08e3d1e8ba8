//! Images: what a reference means, and having exactly those bytes here.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt as _;
use mill_core::container::{Digest, OpError, OpErrorKind, OpOutput, PinnedImage};
use tokio::time::timeout;

use super::errors::{self, error};
use super::{CALL_WITHIN, Engine, credentials};

/// A pull that makes no progress for this long has failed.
const PULL_IDLE: Duration = Duration::from_secs(120);

impl Engine {
    /// What a reference means, with the image here afterwards. A tag that is here already is
    /// taken as it is, but for `latest`, which nobody means to be old.
    pub(super) async fn resolve(
        &self,
        docker: &Docker,
        reference: &str,
    ) -> Result<PinnedImage, OpError> {
        let here = inspect(docker, reference).await?;
        let moves = is_latest(reference);
        if let Some(image) = here.as_ref().filter(|_| !moves) {
            return pinned(reference, image);
        }
        let id_before = here.as_ref().and_then(|image| image.id.clone());
        // What was here before somebody else has brought, unless it was us.
        let ours = here.is_none() || self.pulled().is(reference, id_before.as_deref());
        if here.is_none() {
            self.pulled().note(reference, None).await;
        }
        match (self.pull(docker, reference).await, here) {
            (Ok(()), _) => {
                let image = inspect(docker, reference).await?;
                let image = image.ok_or_else(|| missing(reference))?;
                let pinned = pinned(reference, &image)?;
                if ours {
                    self.pulled().note(reference, image.id.as_deref()).await;
                }
                // The tag may mean something else when these bytes are not needed any more.
                if image.id != id_before {
                    self.pulled().note(&exact(&pinned), image.id.as_deref()).await;
                }
                Ok(pinned)
            }
            // The registry cannot say what is latest; what is here was once.
            (Err(_), Some(image)) => pinned(reference, &image),
            (Err(error), None) => Err(error),
        }
    }

    /// Has exactly these bytes here.
    pub(super) async fn fetch(
        &self,
        docker: &Docker,
        image: &PinnedImage,
    ) -> Result<OpOutput, OpError> {
        let name = exact(image);
        if inspect(docker, &name).await?.is_some() {
            return Ok(OpOutput::Done);
        }
        match &image.digest {
            Digest::Registry(_) => {
                self.pulled().note(&name, None).await;
                self.pull(docker, &name).await?;
                let image = inspect(docker, &name).await?;
                let id = image.and_then(|image| image.id);
                self.pulled().note(&name, id.as_deref()).await;
                Ok(OpOutput::Done)
            }
            Digest::Local(id) => Err(error(
                OpErrorKind::ImageMissing,
                format!(
                    "the image {} ({id}) was only ever loaded on another node, no registry has it; \
                     push it to a registry, or load it on this node too",
                    image.reference
                ),
            )),
        }
    }

    async fn pull(&self, docker: &Docker, reference: &str) -> Result<(), OpError> {
        // Without a tag, Docker would pull every tag that there is.
        let whole = reference.len() == repository(reference).len();
        let reference = &if whole { format!("{reference}:latest") } else { reference.to_owned() };
        let options = CreateImageOptions {
            from_image: Some(reference.clone()),
            ..CreateImageOptions::default()
        };
        let known = credentials::for_image(self.options().config.as_deref(), reference).await?;
        let doing = format!("pulling {reference}");
        let mut progress = docker.create_image(Some(options), None, known);
        loop {
            match timeout(PULL_IDLE, progress.next()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(cause))) => {
                    return Err(errors::of_image(&doing, &cause));
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    let detail = format!(
                        "{doing}: no progress for {PULL_IDLE:?}; check that the registry answers \
                         this node, and the disk's speed"
                    );
                    return Err(error(OpErrorKind::RegistryDown, detail));
                }
            }
        }
    }
}

/// The name by which the engine finds exactly these bytes.
pub(super) fn exact(image: &PinnedImage) -> String {
    match &image.digest {
        Digest::Local(id) => id.clone(),
        Digest::Registry(digest) => format!("{}@{digest}", repository(&image.reference)),
    }
}

pub(super) async fn inspect(docker: &Docker, name: &str) -> Result<Option<ImageInspect>, OpError> {
    let doing = format!("looking for the image {name}");
    let found = timeout(CALL_WITHIN, docker.inspect_image(name)).await;
    match found {
        Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => Ok(None),
        Ok(Err(cause)) => Err(errors::of_image(&doing, &cause)),
        Ok(Ok(image)) => Ok(Some(image)),
        Err(_) => Err(errors::silent(&doing)),
    }
}

fn pinned(reference: &str, image: &ImageInspect) -> Result<PinnedImage, OpError> {
    let repository = repository(reference);
    let of_registry = image.repo_digests.iter().flatten().find_map(|known| {
        let (name, digest) = known.split_once('@')?;
        is_same_repository(name, repository).then(|| Digest::Registry(digest.to_owned()))
    });
    let own = || image.id.clone().map(Digest::Local);
    let digest = of_registry.or_else(own).ok_or_else(|| missing(reference))?;
    Ok(PinnedImage { reference: reference.to_owned(), digest })
}

fn missing(reference: &str) -> OpError {
    error(
        OpErrorKind::ImageMissing,
        format!("the engine has no image {reference} after pulling it"),
    )
}

/// A reference without tag and digest.
fn repository(reference: &str) -> &str {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let last_slash = name.rfind('/').map_or(0, |at| at + 1);
    match name[last_slash..].rfind(':') {
        Some(colon) => &name[..last_slash + colon],
        None => name,
    }
}

/// Docker shortens the names of images from its own registry.
fn is_same_repository(a: &str, b: &str) -> bool {
    let short = |name: &str| {
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        name.strip_prefix("library/").unwrap_or(name).to_owned()
    };
    short(a) == short(b)
}

/// Whether nobody said which: no tag and no digest, or the tag `latest`.
fn is_latest(reference: &str) -> bool {
    !reference.contains('@') && matches!(&reference[repository(reference).len()..], "" | ":latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_come_apart_at_tag_and_digest() {
        let cases = [
            ("web", "web", true),
            ("web:1", "web", false),
            ("web:latest", "web", true),
            ("localhost:5000/web", "localhost:5000/web", true),
            ("localhost:5000/shop/web:1", "localhost:5000/shop/web", false),
            ("web@sha256:abc", "web", false),
            ("localhost:5000/web:1@sha256:abc", "localhost:5000/web", false),
        ];
        for (reference, name, latest) in cases {
            assert_eq!(
                (repository(reference), is_latest(reference)),
                (name, latest),
                "{reference}"
            );
        }
    }
}
