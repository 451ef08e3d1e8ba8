//! What only a node of the cluster can read: opaque here, and sealed before it comes in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Text that the runtime sealed under the cluster's key; printed nowhere.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    /// What the runtime sealed.
    pub fn new(text: String) -> Sealed {
        Sealed(text)
    }

    /// For the runtime to open.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(..)")
    }
}
