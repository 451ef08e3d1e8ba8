//! What this version parses and does not act on yet.

use std::fmt;

use crate::config::model::Project;

/// A part of a config that this version does not act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Where.
    pub path: String,
    /// What.
    pub what: String,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} not supported yet by this version", self.path, self.what)
    }
}

/// Every such part.
pub fn unsupported(_project: &Project) -> Vec<Unsupported> {
    Vec::new()
}
