//! Everything Mill decides, as values: no clock, no socket, no file, no thread, no entropy.
//!
//! [`Node`] is the whole of it: it takes [`Event`]s and the time, and yields [`Effect`]s. The
//! crates `runtime-real` and `runtime-sim` drive the same value. Start reading at
//! [`node`], then [`cluster`], `brain` and `agent`.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod acme;
mod agent;
pub mod api;
mod brain;
pub mod cluster;
pub mod config;
pub mod container;
pub mod effect;
pub mod event;
pub mod message;
#[cfg(feature = "mutants")]
pub mod mutant;
#[cfg(not(feature = "mutants"))]
mod mutant;
pub mod name;
pub mod net;
pub mod node;
mod outbox;
pub mod plan;
pub mod recording;
pub mod rng;
pub mod rollout;
pub mod schedule;
pub mod scheduler;
pub mod sealed;
pub mod time;
pub mod timing;
pub mod units;

pub use self::effect::Effect;
pub use self::event::Event;
pub use self::node::{Node, NodeConfig, Wake};
