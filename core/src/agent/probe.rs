//! Health of one running container: when to ask, and what the answers mean.

use serde::{Deserialize, Serialize};

use crate::cluster::alloc::Phase;
use crate::config::model::{HealthCheck, HealthSpec};
use crate::container::{OpError, OpErrorKind};
use crate::effect::OpId;
use crate::time::Mono;
use crate::units::Millis;

/// The longest that the first probes wait: a fresh container is asked often, so that one that
/// starts fast is used fast, whatever its interval.
const EAGER_INTERVAL: Millis = Millis(250);

/// Probes that may fail after a start before people are told: most programs take a moment.
const MISSES_BEFORE_TOLD: u32 = 8;

/// What is known of a container's health since it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Probing {
    up_since: Mono,
    verdict: Verdict,
    /// Probes in a row that passed.
    passes: u32,
    /// Probes in a row that failed and count.
    failures: u32,
    next: Next,
    /// What the last failing probe got.
    pub last_failure: Option<String>,
    /// Probes that failed since the start, forgiven or not, and what the first of the late ones
    /// got: one text, so that answers that vary are no news.
    misses: u32,
    late_answer: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Verdict {
    /// Not passed yet.
    Open,
    Healthy {
        since: Mono,
    },
    Unhealthy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Next {
    Never,
    At(Mono),
    Asked(OpId),
}

impl Probing {
    /// A container that was just started, or found running; `healthy` if it was known to be.
    pub fn new(now: Mono, healthy: bool) -> Probing {
        let verdict = if healthy { Verdict::Healthy { since: now } } else { Verdict::Open };
        Probing {
            up_since: now,
            verdict,
            passes: 0,
            failures: 0,
            next: Next::At(now),
            last_failure: None,
            misses: 0,
            late_answer: None,
        }
    }

    pub fn phase(&self) -> Phase {
        match self.verdict {
            Verdict::Open => Phase::Running,
            Verdict::Healthy { .. } => Phase::Healthy,
            Verdict::Unhealthy => Phase::Unhealthy,
        }
    }

    /// What its probes get, if it has been long in becoming healthy.
    pub fn unanswered(&self) -> Option<&str> {
        self.late_answer.as_deref().filter(|_| self.verdict == Verdict::Open)
    }

    /// How long it has been healthy.
    pub fn healthy_for(&self, now: Mono) -> Option<Millis> {
        match self.verdict {
            Verdict::Healthy { since } => Some(now.since(since)),
            Verdict::Open | Verdict::Unhealthy => None,
        }
    }

    pub fn waits_for(&self, id: OpId) -> bool {
        self.next == Next::Asked(id)
    }

    /// Whether a probe is due; a container without a check is healthy by running.
    pub fn is_due(&mut self, now: Mono, spec: &HealthSpec) -> bool {
        if spec.check == HealthCheck::Running {
            if self.verdict == Verdict::Open {
                self.verdict = Verdict::Healthy { since: now };
            }
            self.next = Next::Never;
            return false;
        }
        matches!(self.next, Next::At(at) if at <= now)
    }

    pub fn asked(&mut self, id: OpId) {
        self.next = Next::Asked(id);
    }

    /// What a probe answered.
    pub fn answered(&mut self, now: Mono, spec: &HealthSpec, result: Result<(), OpError>) {
        let passed = match result {
            Ok(()) => true,
            // The engine's trouble is not the container's: an exec probe that could not be asked.
            Err(error) if error.kind == OpErrorKind::EngineDown => {
                self.next = Next::At(now + spec.interval);
                return;
            }
            Err(error) => {
                self.misses = self.misses.saturating_add(1);
                if self.misses >= MISSES_BEFORE_TOLD {
                    self.late_answer.get_or_insert_with(|| error.detail.clone());
                }
                self.last_failure = Some(error.detail);
                false
            }
        };
        // Until it was healthy once, a start period forgives; after that nothing does.
        let forgiven =
            self.verdict == Verdict::Open && now.since(self.up_since) < spec.start_period;
        self.passes = if passed { self.passes + 1 } else { 0 };
        self.failures = if passed || forgiven { 0 } else { self.failures + 1 };
        let is_healthy = matches!(self.verdict, Verdict::Healthy { .. });
        if !is_healthy && self.passes >= spec.healthy_after {
            self.verdict = Verdict::Healthy { since: now };
        } else if self.failures >= spec.unhealthy_after {
            self.verdict = Verdict::Unhealthy;
        }
        let eager = self.verdict == Verdict::Open && now.since(self.up_since) < spec.start_period;
        let wait = if eager { spec.interval.min(EAGER_INTERVAL) } else { spec.interval };
        self.next = Next::At(now + wait);
    }

    pub fn next_wake(&self) -> Option<Mono> {
        match self.next {
            Next::At(at) => Some(at),
            Next::Never | Next::Asked(_) => None,
        }
    }
}
