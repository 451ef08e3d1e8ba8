//! Machines that are no nodes yet: each asks for a token, then any node to let it join, until it is
//! told its number. Everything may be lost on the way, so it asks again.

use std::collections::BTreeMap;

use mill_core::Event;
use mill_core::api::{Answer, ErrorCode, JoinAsk, Outcome, Request, RequestId};
use mill_core::cluster::FeatureLevel;
use mill_core::cluster::admission::Roles;
use mill_core::event::Origin;
use mill_core::name::NodeId;
use mill_core::rng::Rng;
use mill_core::units::Millis;

use super::host::{Host, VERSION};
use super::mesh::first_key;
use super::{Asker, Happening, World};

/// Between two tries of a machine, at least and at most.
const PAUSE: (Millis, Millis) = (Millis(300), Millis(1_500));

/// Machines that are to join, by a number of their own.
pub(super) struct Joining {
    rng: Rng,
    machines: BTreeMap<u64, Machine>,
    /// Number of the next machine.
    next: u64,
}

#[derive(Default)]
struct Machine {
    /// How many tokens were made for it.
    tokens: u64,
    /// Whether somebody was told that its latest token is there.
    has_token: bool,
}

impl Joining {
    /// All machines but the one that begins.
    pub fn new(machines: u64, rng: Rng) -> Joining {
        let joining = (2..=machines).map(|machine| (machine, Machine::default()));
        Joining { rng, machines: joining.collect(), next: machines.max(1) + 1 }
    }

    fn token(&self, machine: u64) -> String {
        let made = self.machines.get(&machine).map_or(0, |machine| machine.tokens);
        format!("token {machine}.{made}")
    }
}

impl World {
    /// Machines begin to join, about as soon as there is something to join.
    pub(super) fn begin_joining(&mut self) {
        for machine in self.joining.machines.keys().copied().collect::<Vec<_>>() {
            let after = Millis(500 + self.joining.rng.below(1_000));
            self.after(after, Happening::Join { machine });
        }
    }

    /// Another machine is bought, and is to join.
    pub fn buy_machine(&mut self) {
        let machine = self.joining.next;
        self.joining.next += 1;
        self.joining.machines.insert(machine, Machine::default());
        self.after(PAUSE.0, Happening::Join { machine });
    }

    /// Machines that have not been told that they are nodes.
    pub(crate) fn joining_machines(&self) -> Vec<u64> {
        self.joining.machines.keys().copied().collect()
    }

    /// A machine tries the next thing, and will again.
    pub(super) fn join(&mut self, machine: u64) {
        let Some(state) = self.joining.machines.get(&machine) else { return };
        let has_token = state.has_token;
        let rng = &mut self.joining.rng;
        let again = Millis(rng.between(PAUSE.0.0, PAUSE.1.0));
        let once = rng.chance(500);
        self.after(again, Happening::Join { machine });
        let Some(node) = self.somebody_up() else { return };
        let request = match has_token {
            true => self.ask_to_join(node, machine),
            false => {
                let hash = self.joining.token(machine);
                Request::CreateToken { hash, roles: Roles::default(), expires: None, once }
            }
        };
        let now = self.now;
        self.trace.detail(now, || format!("machine {machine} asks {node} to join"));
        self.ask_for(Asker::Machine(machine), node, request);
    }

    fn somebody_up(&mut self) -> Option<NodeId> {
        let up = self.hosts.values().filter(|host| host.is_up() && !host.frozen);
        let up: Vec<NodeId> = up.map(|host| host.id).collect();
        (!up.is_empty()).then(|| up[self.joining.rng.below(up.len() as u64) as usize])
    }

    fn ask_for(&mut self, asker: Asker, node: NodeId, request: Request) {
        let host = self.host_mut(node);
        let (id, boot) = (RequestId(host.next_request), host.boots);
        host.next_request += 1;
        host.waiting.insert(id, asker);
        self.tell(node, boot, Event::Request { id, request, origin: Origin::Client });
    }

    /// An operator asks for something, once.
    pub(super) fn order(&mut self, request: Request) {
        if let Some(node) = self.somebody_up() {
            self.ask_for(Asker::Operator, node, request);
        }
    }

    /// Whether a machine can be taken away for ever: a majority of those that vote is left.
    pub(super) fn can_spare(&self, node: NodeId) -> bool {
        let voters = self.log.voters();
        let lost = voters.iter().filter(|id| **id == node || self.host(**id).gone).count();
        let member = self.log.is_member(node) && !self.host(node).gone;
        member && lost * 2 < voters.len() && voters.len() >= 3
    }

    /// A machine is taken away for ever, another is bought in its place.
    pub(super) fn take_away(&mut self, node: NodeId) {
        self.kill_daemon(node);
        let host = self.host_mut(node);
        host.gone = true;
        host.powered = false;
        host.engine.power_off();
        self.buy_machine();
        self.retire(node);
    }

    /// An operator removes a machine that is gone, until it is no member any more.
    pub(super) fn retire(&mut self, node: NodeId) {
        if self.cluster().nodes.contains_key(&node) {
            self.order(Request::RemoveNode { node: node.to_string(), force: true });
            let again = Millis(self.joining.rng.between(1_000, 5_000));
            self.after(again, Happening::Retire { node });
        }
    }

    fn ask_to_join(&self, node: NodeId, machine: u64) -> Request {
        let zone = if machine.is_multiple_of(2) { "b" } else { "a" };
        Request::Join(Box::new(JoinAsk {
            token: self.joining.token(machine),
            key: format!("key {machine}"),
            name: format!("m{machine}"),
            roles: None,
            labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
            advertise: format!("10.0.0.{machine}"),
            rpc: format!("10.0.0.{machine}:7433"),
            version: VERSION.to_owned(),
            supports: FeatureLevel::NEWEST,
            mesh: self.knows_mesh().then(|| first_key(machine)),
            // Its clock is right, or as wrong as that of whom it asks.
            wall: self.host(node).clock.now(self.now).wall,
        }))
    }

    /// A machine is told something.
    pub(super) fn machine_hears(&mut self, machine: u64, outcome: &Outcome) {
        let Some(state) = self.joining.machines.get_mut(&machine) else { return };
        match outcome {
            Ok(Answer::Admitted { node, book, .. }) => {
                let node = *node;
                self.joining.machines.remove(&machine);
                let record = self.log.reference.nodes.get(&node);
                if record.is_none_or(|record| record.key != format!("key {machine}")) {
                    let lost = format!("machine {machine} was told that it is {node}, and is not");
                    super::record(&mut self.violation, self.now, Err(("joining", lost)));
                }
                self.stats.count("machines joined");
                let mut host = Host::new(node, machine, &self.params, &mut self.draw.clocks);
                host.mesh.book.clone_from(book);
                self.hosts.insert(node, host);
                let after = Millis(self.joining.rng.between(10, 500));
                self.after(after, Happening::Boot { node });
            }
            Ok(_) => state.has_token = true,
            Err(error) if error.code == ErrorCode::Forbidden => {
                state.tokens += 1;
                state.has_token = false;
            }
            Err(_) => {}
        }
    }
}
