//! What goes wrong in a run, drawn from its seed: cuts, crashes, changes of lead and of members.
//!
//! A fault begins and ends by the world's clock. Some come in every run, so that each has a new
//! leader, a node that needs a snapshot and members that change; the others are drawn. A crash is
//! a power cut in the middle of what the disk does next, then the end of every task of the host.

use std::collections::BTreeSet;

use mill_core::rng::Rng;
use mill_core::units::Millis;

use super::engine::Engine as _;
use super::host::Told;
use super::stage::Stage;
use crate::time::SimTime;

/// A crashed host stays down, and a cut lasts, so many milliseconds: lowest and highest.
const DOWN: (u64, u64) = (300, 4_000);
/// The driver repeats what it wants of the members this often.
const INSIST: Millis = Millis(700);

/// What is wrong at the moment.
#[derive(Default)]
pub(super) struct Faults {
    cuts: Vec<(SimTime, BTreeSet<(u64, u64)>)>,
    crashing: Vec<(SimTime, u64)>,
    down: Vec<(SimTime, u64)>,
    next: SimTime,
    insist_at: SimTime,
    scripted: u64,
}

impl Faults {
    /// Begins and ends what is due. Called at every tick of the turmoil.
    pub(super) fn step(&mut self, stage: &mut Stage, rng: &mut Rng, begun: SimTime) {
        let now = stage.now();
        self.script(stage, rng, begun);
        if now >= self.next {
            let gap = u64::try_from(stage.params.fault_gap.as_millis()).unwrap_or(u64::MAX);
            self.next = now + Millis(rng.between(gap / 2, gap * 3 / 2));
            self.draw(stage, rng);
        }
        self.end(stage, rng, now);
    }

    /// Ends everything: cuts are repaired and whoever is down starts.
    pub(super) fn heal(&mut self, stage: &mut Stage, rng: &mut Rng) {
        self.cuts.clear();
        apply_cuts(stage, &self.cuts);
        for (_, node) in std::mem::take(&mut self.crashing) {
            stage.crash(node);
            self.down.push((stage.now(), node));
        }
        for (_, node) in std::mem::take(&mut self.down) {
            stage.restart(node, rng.draw());
        }
    }

    /// Asks the leader for the members that are wanted, again and again.
    pub(super) fn insist(&mut self, stage: &mut Stage) {
        let now = stage.now();
        if now < self.insist_at {
            return;
        }
        self.insist_at = now + INSIST;
        let Some(leader) = stage.leader() else { return };
        if stage.machines[&leader].shown().members != stage.wanted {
            let (voters, learners) = stage.wanted.clone();
            stage.tell(leader, Told::Members { voters, learners });
        }
    }

    /// What every run has: a leader that crashes, a node that joins, another that goes.
    fn script(&mut self, stage: &mut Stage, rng: &mut Rng, begun: SimTime) {
        let turmoil = u64::try_from(stage.params.turmoil.as_millis()).unwrap_or(u64::MAX);
        let due = begun + Millis(turmoil * (self.scripted + 1) / 5);
        if stage.now() < due {
            return;
        }
        let Some(leader) = stage.leader() else { return };
        let newcomer = stage.params.voters + 1;
        match self.scripted {
            0 => {
                if !self.crash(stage, rng, leader) {
                    return;
                }
            }
            1 => stage.want(stage.wanted.0.clone(), BTreeSet::from([newcomer])),
            2 => {
                let mut voters = stage.wanted.0.clone();
                let goes = *pick(rng, &voters);
                voters.remove(&goes);
                voters.insert(newcomer);
                let stays = rng.chance(500);
                stage.want(voters, stays.then_some(goes).into_iter().collect());
            }
            3 => self.cut_off(stage, rng, leader),
            _ => return,
        }
        self.scripted += 1;
    }

    fn draw(&mut self, stage: &mut Stage, rng: &mut Rng) {
        let all: BTreeSet<u64> = stage.machines.keys().copied().collect();
        let node = *pick(rng, &all);
        match rng.below(5) {
            0 => {
                self.crash(stage, rng, node);
            }
            1 => self.cut_off(stage, rng, node),
            2 => {
                let other = *pick(rng, &all);
                stage.line(&format!("nothing passes from node {node} to node {other}"));
                self.cut(stage, rng, BTreeSet::from([(node, other)]));
            }
            3 => {
                let (some, others): (BTreeSet<u64>, BTreeSet<u64>) =
                    all.iter().partition(|_| rng.chance(500));
                stage.line(&format!("the network splits into {some:?} and {others:?}"));
                let pairs = some.iter().flat_map(|a| others.iter().map(move |b| (*a, *b)));
                self.cut(stage, rng, pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect());
            }
            _ => {
                if let Some(leader) = stage.leader() {
                    stage.record.count("transfers asked for");
                    stage.tell(leader, Told::TransferLead { to: node });
                }
            }
        }
    }

    /// False where that would be one too many at once.
    fn crash(&mut self, stage: &mut Stage, rng: &mut Rng, node: u64) -> bool {
        let is_affected = |list: &[(SimTime, u64)]| list.iter().any(|(_, other)| *other == node);
        let down = self.down.len() + self.crashing.len();
        let most = stage.wanted.0.len().saturating_sub(1) / 2;
        if is_affected(&self.down) || is_affected(&self.crashing) || down >= most {
            return false;
        }
        stage.line(&format!("the power of node {node} fails"));
        stage.machines[&node].machine.loses_power(rng);
        self.crashing.push((stage.now() + Millis(rng.below(40)), node));
        true
    }

    fn cut_off(&mut self, stage: &mut Stage, rng: &mut Rng, node: u64) {
        stage.line(&format!("node {node} is cut off from the others"));
        let others = stage.machines.keys().copied().filter(|other| *other != node);
        self.cut(stage, rng, others.flat_map(|other| [(node, other), (other, node)]).collect());
    }

    fn cut(&mut self, stage: &Stage, rng: &mut Rng, pairs: BTreeSet<(u64, u64)>) {
        stage.record.count("cuts");
        let pairs = pairs.into_iter().filter(|(from, to)| from != to).collect();
        self.cuts.push((stage.now() + Millis(rng.between(DOWN.0, DOWN.1)), pairs));
        apply_cuts(stage, &self.cuts);
    }

    fn end(&mut self, stage: &mut Stage, rng: &mut Rng, now: SimTime) {
        let before = self.cuts.len();
        self.cuts.retain(|(until, _)| *until > now);
        if self.cuts.len() < before {
            stage.line("a cut is repaired");
            apply_cuts(stage, &self.cuts);
        }
        let (due, later) = self.crashing.iter().partition(|(at, _)| *at <= now);
        self.crashing = later;
        for (_, node) in due {
            stage.crash(node);
            self.down.push((now + Millis(rng.between(DOWN.0, DOWN.1)), node));
        }
        let (due, later) = self.down.iter().partition(|(until, _)| *until <= now);
        self.down = later;
        for (_, node) in due {
            stage.restart(node, rng.draw());
        }
    }
}

/// Every link between nodes is whole but for these.
fn apply_cuts(stage: &Stage, cuts: &[(SimTime, BTreeSet<(u64, u64)>)]) {
    for a in stage.machines.keys() {
        for b in stage.machines.keys().filter(|b| *b > a) {
            stage.world.repair(*a, *b);
        }
    }
    let pairs: BTreeSet<(u64, u64)> = cuts.iter().flat_map(|(_, pairs)| pairs).copied().collect();
    stage.record.cut(stage.now(), &pairs);
    for (from, to) in pairs {
        stage.world.cut(from, to);
    }
}

fn pick<'a>(rng: &mut Rng, nodes: &'a BTreeSet<u64>) -> &'a u64 {
    let place = rng.below(nodes.len() as u64) as usize;
    nodes.iter().nth(place).expect("drawn below their number")
}
