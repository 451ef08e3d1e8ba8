//! Requests on turmoil's network: callers, an ingress and its replicas, each on a machine of its
//! own, over links that lag. The code is the one that serves; how it is reached and what it
//! reaches is in `network.rs`.
//!
//! A seed decides everything: how long each message takes, what callers ask and when, what the
//! worker draws. Each story is told for a number of seeds, and names the one that broke it.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

pub(crate) mod network;

mod bodies;
mod encrypted;
mod leaving;
mod lost;
mod people;
mod stage;
mod updates;
