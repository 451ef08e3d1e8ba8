//! Images: what a tag means today, and how what is in it behaves when it runs.

use std::collections::BTreeMap;

use mill_core::container::{Digest, OpError, OpErrorKind, PinnedImage};
use mill_core::units::Millis;

/// The one registry of a world.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    tags: BTreeMap<String, u64>,
    builds: BTreeMap<u64, Behaviour>,
    /// It does not answer.
    pub down: bool,
    /// How long it takes then until that is known: connections may be refused, or lead nowhere.
    pub fails_after: Millis,
}

/// How a container of an image behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// From its start until it passes health checks; `None` if it never does.
    pub ready_after: Option<Millis>,
    /// From the stop signal until it ends; `None` if it ignores the signal.
    pub stops_after: Option<Millis>,
    /// It ends by itself.
    pub crash: Crash,
}

/// When a container ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Not at all.
    Never,
    /// Every time, after this long.
    Always(Millis),
    /// At random, after this long on average.
    Sometimes(Millis),
    /// It is done after this long, with that exit code.
    Done(Millis, i32),
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            ready_after: Some(Millis(300)),
            stops_after: Some(Millis(200)),
            crash: Crash::Never,
        }
    }
}

impl Registry {
    /// Builds an image and lets a tag point to it, also if the tag meant another before.
    pub fn publish(&mut self, reference: &str, behaviour: Behaviour) {
        let build = self.builds.len() as u64 + 1;
        self.builds.insert(build, behaviour);
        self.tags.insert(reference.to_owned(), build);
    }

    /// Changes how the containers behave that are started from now on from what a tag means.
    pub fn rebuild(&mut self, reference: &str, behaviour: Behaviour) {
        if let Some(build) = self.tags.get(reference) {
            self.builds.insert(*build, behaviour);
        }
    }

    /// What a tag means now.
    ///
    /// # Errors
    /// The registry is down, or has no such image.
    pub fn resolve(&self, reference: &str) -> Result<PinnedImage, OpError> {
        self.answers()?;
        let build = self.tags.get(reference).ok_or_else(|| OpError {
            kind: OpErrorKind::ImageMissing,
            detail: format!("there is no image `{reference}`"),
        })?;
        let digest = Digest::Registry(format!("sha256:{build:064x}"));
        Ok(PinnedImage { reference: reference.to_owned(), digest })
    }

    /// # Errors
    /// It is down.
    pub fn answers(&self) -> Result<(), OpError> {
        if !self.down {
            return Ok(());
        }
        let detail = "the registry does not answer".to_owned();
        Err(OpError { kind: OpErrorKind::RegistryDown, detail })
    }

    /// How containers of those bytes behave.
    pub fn behaviour(&self, image: &PinnedImage) -> Behaviour {
        let (Digest::Registry(text) | Digest::Local(text)) = &image.digest;
        let hex = text.trim_start_matches("sha256:");
        let build = u64::from_str_radix(hex, 16).ok();
        build.and_then(|build| self.builds.get(&build)).cloned().unwrap_or_default()
    }
}
