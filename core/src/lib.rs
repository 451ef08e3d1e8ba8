//! Everything Mill decides, as values: no clock, no socket, no file, no thread, no entropy.

pub mod config;
pub mod name;
pub mod units;
