//! A whole run: turmoil, then convergence, then quiet.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mill_core::units::Millis;

use crate::invariants::Violation;
use crate::params::Params;
use crate::report::Report;
use crate::time::SimTime;
use crate::trace::Line;
use crate::world::World;

/// After convergence, this long nothing but heartbeats and probes may happen.
const QUIET: Millis = Millis::secs(30);

/// Runs a world from its beginning to its end.
pub fn run(params: Params) -> Report {
    run_traced(params, None)
}

/// The same; every line of the trace goes to `listener`.
pub fn run_traced(params: Params, listener: Option<Line>) -> Report {
    let mut world = World::traced(params, listener);
    // A panic in core is a violation like any other: it needs its seed and its timeline, too.
    let driven = catch_unwind(AssertUnwindSafe(|| drive(&mut world)));
    let violation = driven.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        let detail = said.unwrap_or("it did not say why").to_owned();
        Some(Violation { at: world.now(), invariant: "panic", detail })
    });
    Report::of(&world, violation)
}

fn drive(world: &mut World) -> Option<Violation> {
    world.begin_faults();
    world.begin_people();
    world.run_until(SimTime::default() + world.params().turmoil);
    if let Some(violation) = world.violation() {
        return Some(violation.clone());
    }
    world.heal_all();
    world.mend_images();
    converge(world).or_else(|| stay_quiet(world))
}

fn converge(world: &mut World) -> Option<Violation> {
    let deadline = world.now() + world.params().patience;
    loop {
        let pending = world.pending();
        if let Some(violation) = world.violation() {
            return Some(violation.clone());
        }
        if pending.is_empty() {
            return None;
        }
        if world.now() >= deadline {
            let detail = format!("not converged: {}", pending.join("; "));
            return Some(Violation { at: world.now(), invariant: "liveness", detail });
        }
        world.run_for(Millis::secs(1));
    }
}

/// A cluster in which nothing is to be done does nothing.
fn stay_quiet(world: &mut World) -> Option<Violation> {
    // What was started lately may still be soaking or settle an address; one more look is free.
    // Who was silent when the faults ended may have been called down a moment later.
    world.run_for(QUIET);
    if let Some(violation) = converge(world) {
        return Some(violation);
    }
    let before = world.activity();
    world.run_for(QUIET);
    world.compare_all();
    let after = world.activity();
    if let Some(violation) = world.violation() {
        return Some(violation.clone());
    }
    (before != after).then(|| Violation {
        at: world.now(),
        invariant: "quiescence",
        detail: format!(
            "a converged cluster wrote {} entries and asked for {} container operations",
            after.0 - before.0,
            after.1 - before.1
        ),
    })
}
