//! One seeded tree of generators: every draw is named, so adding one never shifts another.
//!
//! ChaCha8 because its output is fixed by specification; `SmallRng` changes between versions and
//! would kill pinned seeds. Checkpoints carry the generators' states.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A generator that can be split by name, compared and checkpointed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rng {
    seed: u64,
    stream: ChaCha8Rng,
}

impl Rng {
    /// The root of a tree.
    pub fn new(seed: u64) -> Rng {
        Rng { seed, stream: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The child of that name: the same for the same root, independent of what was drawn.
    pub fn child(&self, name: &str) -> Rng {
        Rng::new(xxh3_64_with_seed(name.as_bytes(), self.seed))
    }

    /// Any `u64`.
    pub fn draw(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// A number from 0 up to but not including `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no member to draw");
        // Multiply-shift (Lemire 2019); the bias below 2^-32 for our bounds does not matter here.
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `permille` of a thousand draws.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// `length` letters and digits that nobody misreads (no 0, 1, l, o, vowels).
    pub fn tag(&mut self, length: usize) -> String {
        const ALPHABET: &[u8; 27] = b"bcdfghjkmnpqrstvwxyz2345678";
        (0..length).map(|_| ALPHABET[self.below(27) as usize] as char).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_seeds_keep_their_meaning() {
        let mut rng = Rng::new(7).child("jitter");
        assert_eq!([rng.below(1000), rng.below(1000), rng.below(1000)], [395, 732, 594]);
    }

    #[test]
    fn a_child_does_not_depend_on_what_its_parent_drew() {
        let mut parent = Rng::new(7);
        let before = parent.child("a");
        parent.draw();
        assert_eq!(before, parent.child("a"));
        assert_ne!(parent.child("a"), parent.child("b"));
    }

    #[test]
    fn a_restored_generator_goes_on_where_it_was() {
        let mut rng = Rng::new(7);
        rng.draw();
        let saved = serde_json::to_string(&rng).unwrap();
        let mut restored: Rng = serde_json::from_str(&saved).unwrap();
        assert_eq!(rng.draw(), restored.draw());
    }
}
