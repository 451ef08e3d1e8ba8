//! `mill.toml`: from text to a validated [`model::Project`], with every problem at once.

pub mod diff;
pub mod model;
pub mod supported;
pub mod text;
