//! Mill against a simulated world: time, clocks, network, log, engines, people; by seed.
//!
//! The same [`mill_core::Node`] that runs in production is driven by one totally ordered queue.
//! There is no thread here, and no async runtime but in `raft`, where the seed drives it: equal
//! seeds give equal traces on any machine.
//! [`run`] is a whole run: faults and people at work while every event is checked (safety), then
//! quiet until everything has converged (liveness). [`World`] is the same under a test's control.
//! - `models`: what a log, a network, a clock, an engine and a registry do; they decide nothing
//! - `world`: the queue, and what each happening does to the models and the nodes
//! - `invariants`: what must hold, one file each; `liveness`: what is not converged yet
//! - [`raft`]: the same nodes on real consensus, whose log is a model elsewhere

#![warn(clippy::wildcard_enum_match_arm)]

mod invariants;
mod liveness;
pub mod models;
mod params;
pub mod raft;
mod report;
mod run;
mod stats;
mod time;
mod trace;
pub mod workload;
mod world;

pub use self::invariants::Violation;
pub use self::params::Params;
pub use self::report::Report;
pub use self::run::{run, run_traced};
pub use self::stats::Stats;
pub use self::time::SimTime;
pub use self::trace::Line;
pub use self::world::World;
pub use self::world::faults::{Fault, FaultKind};
pub use self::world::people::Asked;
