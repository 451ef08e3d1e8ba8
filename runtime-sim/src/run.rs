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
    let violation = drive_whole(&mut world);
    Report::of(&world, violation)
}

/// A world with whatever lets its time pass.
pub(crate) trait Driven {
    /// The world.
    fn world(&mut self) -> &mut World;

    /// After convergence, this long nothing but heartbeats and probes may happen.
    fn quiet(&self) -> Millis;

    /// Lets time pass, until `end` or the first violation.
    fn run_until(&mut self, end: SimTime);
}

impl Driven for World {
    fn world(&mut self) -> &mut World {
        self
    }

    fn quiet(&self) -> Millis {
        QUIET
    }

    fn run_until(&mut self, end: SimTime) {
        World::run_until(self, end);
    }
}

/// Drives a world through a whole run; says what did not hold.
pub(crate) fn drive_whole(driven: &mut impl Driven) -> Option<Violation> {
    // A panic in core is a violation like any other: it needs its seed and its timeline, too.
    let ended = catch_unwind(AssertUnwindSafe(|| drive(driven)));
    ended.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        let detail = said.unwrap_or("it did not say why").to_owned();
        Some(Violation { at: driven.world().now(), invariant: "panic", detail })
    })
}

fn drive(driven: &mut impl Driven) -> Option<Violation> {
    let world = driven.world();
    world.begin_faults();
    world.begin_people();
    let end = SimTime::default() + world.params().turmoil;
    driven.run_until(end);
    let world = driven.world();
    if let Some(violation) = world.violation() {
        return Some(violation.clone());
    }
    world.heal_all();
    world.mend_images();
    converge(driven).or_else(|| stay_quiet(driven))
}

fn run_for(driven: &mut impl Driven, length: Millis) {
    let end = driven.world().now() + length;
    driven.run_until(end);
}

fn converge(driven: &mut impl Driven) -> Option<Violation> {
    let deadline = driven.world().now() + driven.world().params().patience;
    loop {
        let world = driven.world();
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
        run_for(driven, Millis::secs(1));
    }
}

/// A cluster in which nothing is to be done does nothing.
fn stay_quiet(driven: &mut impl Driven) -> Option<Violation> {
    // What was started lately may still be soaking or settle an address; one more look is free.
    // Who was silent when the faults ended may have been called down a moment later.
    let quiet = driven.quiet();
    run_for(driven, quiet);
    if let Some(violation) = converge(driven) {
        return Some(violation);
    }
    let before = driven.world().activity();
    run_for(driven, quiet);
    let world = driven.world();
    world.compare_all();
    let after = world.activity();
    if let Some(violation) = world.violation() {
        return Some(violation.clone());
    }
    // What is kept though it is sick is started again for as long as there is no room for better.
    // Nor does a schedule ever end.
    let goes_on = world.keeps_the_sick() || world.has_schedules();
    (before != after && !goes_on).then(|| Violation {
        at: world.now(),
        invariant: "quiescence",
        detail: format!(
            "a converged cluster wrote {} entries and asked for {} container operations",
            after.0 - before.0,
            after.1 - before.1
        ),
    })
}
