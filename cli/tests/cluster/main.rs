//! A cluster of real machines, as far as one machine can play several: network namespaces with a
//! container engine and a daemon each, real containers, and faults of power and cables.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod machines;
#[path = "../support/mod.rs"]
mod support;

mod callers;
mod faults;
mod ingress;
mod members;
mod mesh;
mod names;
mod pebble;
mod recovery;
mod streams;
mod traffic;
