//! Every replica of one version runs the same bytes, whatever its tag means meanwhile.

use std::collections::BTreeMap;

use mill_core::Effect;
use mill_core::container::{ContainerOp, Digest};
use mill_core::name::Name;

use super::{Invariant, Moment};

/// The bytes of each version of each service.
#[derive(Default)]
pub(super) struct Pinned(BTreeMap<(Name, u64), Digest>);

impl Invariant for Pinned {
    fn name(&self) -> &'static str {
        "pinned"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Effect { host, effect: Effect::Container { op, .. }, .. } = moment else {
            return Ok(());
        };
        let ContainerOp::Start { spec } = op else { return Ok(()) };
        let state = host.daemon.as_ref().map(|daemon| daemon.cluster());
        let Some(alloc) = state.and_then(|state| state.allocs.get(&spec.alloc)) else {
            return Ok(());
        };
        let version = (alloc.slot.service.clone(), alloc.template);
        let digest = spec.image.digest.clone();
        let known = self.0.entry(version).or_insert_with(|| digest.clone());
        if *known == digest {
            return Ok(());
        }
        Err(format!("{} runs {digest:?}, others of its version run {known:?}", spec.alloc))
    }
}
