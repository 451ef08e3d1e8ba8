//! The Docker adapter against a real engine: what core asks for is what happens.
//!
//! Every test gets an engine of its own process (`tools/engine.sh`), which is gone afterwards, also
//! when the test failed. Needs root and dockerd; where they are missing the tests say so, and fail
//! if `MILL_REQUIRE_ENGINE` is set, as it is in CI. Some need docker-registry and htpasswd too.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod engine;
mod images;
mod output;
mod probes;
mod start;
mod stop;
mod support;
