//! What the world is made of, each by itself: clocks, network, log, engine, registry.
//!
//! A model holds state and says what follows; the world asks it and does the rest. Each is an
//! adversary within its contract: what the real part may do at worst, it does at times.

pub mod authority;
pub mod clock;
pub mod engine;
pub mod log;
pub mod network;
pub mod registry;
