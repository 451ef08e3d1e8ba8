//! `mill.toml`: from text to a validated [`model::Project`], with every problem at once.

pub mod model;
pub mod text;
