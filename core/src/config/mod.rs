//! `mill.toml`: from text to a validated [`model::Project`], with every problem at once.
//!
//! [`parse`] reads the files into one tree (`tree`), checks the tree against the field table
//! (`grammar`, `check`), builds the model from what is well formed (`build`) and then checks what
//! takes more than one field to know (`rules`). What only a cluster can know is not decided here:
//! whether secrets exist, whether a node can hold a service, whether another project took a name.
//! Tested by the snapshots in `tests/config`.

mod build;
pub(crate) mod capabilities;
mod check;
pub(crate) mod cron;
pub mod diff;
mod format;
pub mod grammar;
mod http;
mod image;
pub mod model;
mod path;
pub mod problem;
mod reference;
mod render;
mod rules;
mod schema;
mod source;
mod spell;
mod suggest;
pub mod supported;
pub mod text;
mod tree;

use std::collections::BTreeMap;

pub use problem::{Location, Note, Problem};
pub use reference::reference;
pub use schema::schema;
pub use source::Source;

use model::Project;
use source::Files;

/// A project that passed every check which needs no cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What the files mean.
    pub project: Project,
    /// Where each field stands, by path: `service.web.replicas`, `service.web.route[0].host`,
    /// `service.web.env.DATABASE_URL`. A value's own place, or the header of a table.
    pub spans: BTreeMap<String, Location>,
}

impl Parsed {
    /// Where a field stands; the nearest thing around it when it was not written itself.
    /// `None` only for a project whose files say nothing at all.
    pub fn locate(&self, path: &str) -> Option<&Location> {
        path::nearest(&self.spans, path)
    }
}

/// Reads the files of one project, merged: tables are joined, and the same key twice is a problem.
///
/// # Errors
/// Every problem found, in the order of files and lines; never an empty list. Where a file is not
/// even TOML, what the broken part could have said is not held against the rest.
pub fn parse(sources: &[Source]) -> Result<Parsed, Vec<Problem>> {
    let files = Files::new(sources);
    let tree = tree::read(&files);
    let checked = check::check(&files, &tree.root);
    let project = build::project(&tree.root, &checked.facts.broken);
    let mut problems = checked.problems;
    problems.extend(rules::check(&project, &checked.facts, &files));
    problems.retain(|p| tree.trusts(p));
    problems.extend(tree.problems);
    if problems.is_empty() {
        return Ok(Parsed { project, spans: checked.facts.spans });
    }
    problems.sort_by(|a, b| (&a.primary, &a.code).cmp(&(&b.primary, &b.code)));
    problems.dedup();
    Err(problems)
}
