//! Known bugs of consensus, each behind a switch, so that its simulation can be held to finding
//! them.
//!
//! As in mill-core: without the feature `mutants`, which nothing that ships turns on, [`is`] is a
//! constant `false` and the program is the one without this file. What finds each of them, and
//! within how many seeds, is in `sim-tests/tests/mutants.rs`.

/// A known bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// A vote is given that does not survive a restart.
    VoteNotSynced = 1,
    /// An entry is acknowledged before it would survive a power cut.
    LogNotSynced,
    /// A start does not replay the first entry after its snapshot.
    EntrySkippedAfterSnapshot,
    /// A leader answers a read without asking a majority whether it leads.
    ReadNotConfirmed,
    /// A proposal whose leader was lost is said to have been refused.
    UnknownSaidRefused,
    /// A start calls itself caught up as soon as it has replayed its own disk.
    CaughtUpTooEarly,
}

/// Whether that bug is there. Never, in what ships.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use self::chosen::choose;
#[cfg(feature = "mutants")]
pub(crate) use self::chosen::is;

#[cfg(feature = "mutants")]
mod chosen {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutant;

    /// The bug of this process; 0 is none.
    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// From now on this process has that bug, and no other.
    pub fn choose(mutant: Mutant) {
        CHOSEN.store(mutant as u8, Ordering::Relaxed);
    }

    pub(crate) fn is(mutant: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == mutant as u8
    }
}
