//! Everything Mill decides, as values: no clock, no socket, no file, no thread, no entropy.

pub mod config;
pub mod container;
pub mod name;
pub mod rng;
pub mod time;
pub mod units;
