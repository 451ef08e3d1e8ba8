//! No leader goes on deciding what is refused: an entry of which nothing holds is a late one, many
//! of them in a row are a decision made on something else than the state. What somebody asks for
//! again and again is theirs.

use super::{Invariant, Moment};

/// Entries in a row that changed nothing.
#[derive(Default)]
pub(super) struct Storm(u32);

/// So many in a row are too many; leaders that change may each have a few under way.
const TOO_MANY: u32 = 12;

impl Invariant for Storm {
    fn name(&self) -> &'static str {
        "storm"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed { entry, held, .. } = moment else { return Ok(()) };
        if entry.intent.is_none() {
            return Ok(());
        }
        self.0 = if *held == 0 { self.0 + 1 } else { 0 };
        if self.0 < TOO_MANY {
            return Ok(());
        }
        Err(format!("{} entries in a row were refused, the last: {:?}", self.0, entry.commands))
    }
}
