//! People who deploy, scale, restart and look, and what they were told.
//!
//! A person asks the node that is said to lead, or any; follows the answer; and is told nothing
//! if that node dies. Every question and every answer goes to the invariants, which hold Mill to
//! what it said.

use std::collections::BTreeMap;

use mill_core::api::{Answer, ErrorCode, Outcome, Request, RequestId};
use mill_core::event::{Event, Leadership, Origin};
use mill_core::name::NodeId;
use mill_core::rng::Rng;
use mill_core::units::Millis;

use super::{Asker, Happening, World};
use crate::invariants::Moment;
use crate::params::Params;
use crate::time::SimTime;
use crate::workload::{self, Draft};

/// Who waits when it is time for something else hangs up, this often of a thousand times.
const IMPATIENCE: u64 = 300;

/// Everybody who uses the cluster.
pub(super) struct People {
    people: Vec<Person>,
    changes: u64,
}

struct Person {
    rng: Rng,
    draft: Draft,
    /// The draft before the last question: what was refused is not kept.
    draft_before: Draft,
    /// What was asked and is not answered.
    asked: Option<Asked>,
    answered: Option<Outcome>,
    /// What was seen of the last deploy.
    seen: Option<u64>,
    /// What was seen of a run.
    seen_run: Option<u64>,
    /// The last event that it was told of.
    event: Option<u64>,
    /// The plan of going back to an earlier deploy, until that is done or forgotten.
    agreed: Option<(u64, String)>,
    habit: Habit,
}

/// What a person comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// To deploy and look, now and then.
    Operates,
    /// To look at the status all the time, and to believe whoever claims to lead.
    Watches,
    /// To label nodes all the time: small writes, of which nothing follows.
    Marks,
    /// To do what a test says.
    Scripted,
}

/// Between two looks of one who watches, on average.
const LOOKS: Millis = Millis(500);
/// Between two labels of one who labels, on average.
const LABELS: Millis = Millis(700);
/// The label that is set anew each time, to something that was never there.
const MARK: &str = "mark";
/// Who hurries is so many times faster.
const PACE: u64 = 6;
/// Of a thousand of those looks, at a node's own copy.
const ASKS_A_COPY: u64 = 200;
/// Of a thousand questions, to the node that is said to lead.
const ASKS_THE_LEADER: u64 = 800;

/// A question of a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Who asks.
    pub person: usize,
    /// Which node.
    pub node: NodeId,
    /// Names the answer.
    pub id: RequestId,
    /// When.
    pub at: SimTime,
    /// What.
    pub request: Request,
    /// The change that only this deploy carries, if it is one.
    pub change: Option<String>,
}

impl People {
    pub fn new(params: &Params, root: &Rng) -> People {
        let person = |number: u64| {
            let rng = root.child(&format!("person {number}"));
            // Most have a project of their own; the third shares the first's.
            let name = if number == 1 { "b" } else { "a" };
            let services = params.services.max(1);
            let draft = Draft::new(name, services, params.bad_images, rng.child("draft"));
            Person::new(rng, draft.with_tasks(params.tasks))
        };
        let mut people: Vec<Person> = (0..params.people).map(person).collect();
        let other = |name: &str, habit| {
            let rng = root.child(name);
            let draft = Draft::new(name, 1, 0, rng.child("draft"));
            Person { habit, ..Person::new(rng, draft) }
        };
        if params.people > 0 {
            people.push(other("watcher", Habit::Watches));
        }
        people.push(other("script", Habit::Scripted));
        People { people, changes: 0 }
    }

    /// What they deploy is quick, and one more labels nodes all the time: for short runs.
    pub fn hurry(&mut self, root: &Rng) {
        self.people.iter_mut().for_each(|person| person.draft.hurry(PACE));
        let rng = root.child("marker");
        let draft = Draft::new("marker", 1, 0, rng.child("draft"));
        let marker = Person { habit: Habit::Marks, ..Person::new(rng, draft) };
        // The last is the test's.
        self.people.insert(self.people.len() - 1, marker);
    }
}

impl Person {
    fn new(rng: Rng, draft: Draft) -> Person {
        let draft_before = draft.clone();
        Person {
            rng,
            draft,
            draft_before,
            asked: None,
            answered: None,
            seen: None,
            seen_run: None,
            event: None,
            agreed: None,
            habit: Habit::Operates,
        }
    }
}

impl World {
    /// Lets people come.
    pub fn begin_people(&mut self) {
        for person in 0..self.people.people.len() {
            self.after(Millis::secs(3), Happening::Act { person });
        }
    }

    /// Whether people and faults are at work.
    pub(crate) fn in_turmoil(&self) -> bool {
        self.now < SimTime::default() + self.params.turmoil
    }

    pub(super) fn act(&mut self, person: usize) {
        let habit = self.people.people[person].habit;
        if !self.in_turmoil() || habit == Habit::Scripted {
            return;
        }
        let pause = match habit {
            Habit::Watches => LOOKS,
            Habit::Marks => LABELS,
            Habit::Operates | Habit::Scripted => self.params.pause,
        };
        let someone = &mut self.people.people[person];
        let wait = Millis(someone.rng.between(1, 2 * pause.0));
        if let Some(asked) = someone.asked.clone() {
            if someone.rng.chance(IMPATIENCE) {
                self.hang_up(&asked);
            }
        } else if habit == Habit::Watches {
            if self.people.people[person].rng.chance(ASKS_A_COPY) {
                if let Some(node) = self.whom_to_ask(person, 0) {
                    self.ask(person, node, Request::Status { stale: true }, None);
                }
            } else if let Some(node) = self.somebody_who_claims_to_lead(person) {
                self.ask(person, node, Request::Status { stale: false }, None);
            }
        } else if habit == Habit::Marks {
            let node = self.whom_to_ask(person, ASKS_THE_LEADER);
            if let (Some(node), Some(request)) = (node, self.label(person)) {
                self.ask(person, node, request, None);
            }
        } else {
            let choices = if self.params.tasks > 0 { 18 } else { 16 };
            let choice = someone.rng.below(choices);
            let (request, change) = self.choose(person, choice);
            if let Some(node) = self.whom_to_ask(person, ASKS_THE_LEADER) {
                self.ask(person, node, request, change);
            }
        }
        self.after(wait, Happening::Act { person });
    }

    fn label(&mut self, person: usize) -> Option<Request> {
        self.people.changes += 1;
        let nodes: Vec<NodeId> = self.log.reference.nodes.keys().copied().collect();
        let rng = &mut self.people.people[person].rng;
        let node = nodes.get(rng.below(nodes.len().max(1) as u64) as usize)?.to_string();
        let set = [(MARK.to_owned(), format!("m{}", self.people.changes))].into();
        Some(Request::Label { node, set, remove: Vec::new() })
    }

    fn choose(&mut self, person: usize, choice: u64) -> (Request, Option<String>) {
        self.people.changes += 1;
        let change = format!("change {}", self.people.changes);
        let someone = &mut self.people.people[person];
        someone.draft_before = someone.draft.clone();
        let names = someone.draft.names();
        let some = names.get(someone.rng.below(names.len().max(1) as u64) as usize).cloned();
        if let Some((to, expect)) = someone.agreed.take().filter(|_| someone.rng.chance(700)) {
            return (Request::Rollback { project: None, to: Some(to), expect: Some(expect) }, None);
        }
        let tasks = someone.draft.tasks();
        let task = match tasks.len() as u64 {
            0 => None,
            some => tasks.get(someone.rng.below(some) as usize).cloned(),
        };
        let waits = self.log.reference.services.keys();
        let mut waits = waits.filter(|name| self.log.reference.canaries(name).is_some());
        if waits.next().is_some() && someone.rng.chance(IMPATIENCE) {
            return (Request::Promote { number: None, services: Vec::new() }, None);
        }
        let mut live = self.log.reference.live_runs();
        let run = live.next().map_or(self.log.reference.last_run, |(number, _)| number);
        let request = match (choice, some) {
            (16 | 17, _) if task.is_some() || run > 0 => match (someone.rng.below(8), task) {
                (0, _) => Request::Kill { number: run },
                (1, task) => Request::Runs { task, stale: someone.rng.chance(300) },
                (2, _) => Request::RunState {
                    number: run,
                    seen: someone.seen_run,
                    hold: Millis::secs(someone.rng.between(1, 40)),
                },
                (_, Some(task)) => Request::Run { task, overrides: Box::default() },
                (_, None) => Request::Runs { task: None, stale: false },
            },
            (0, Some(service)) => Request::Restart { service },
            (1, Some(service)) => Request::Scale {
                service,
                replicas: u32::try_from(someone.rng.below(5)).expect("small"),
            },
            (2, _) => Request::Status { stale: someone.rng.chance(300) },
            (3, Some(service)) => Request::Why { subject: service.to_string(), stale: false },
            (4, _) => Request::Allocs { service: None, stale: false },
            (5, _) => {
                let (seen, hold) = (someone.seen, Millis::secs(someone.rng.between(1, 40)));
                Request::Deployment { number: None, seen, hold }
            }
            (6, _) => {
                Request::Plan { project: Box::new(someone.draft.edit(&mut self.registry, &change)) }
            }
            (7 | 10, _) => {
                let project = Some(someone.draft.project_name());
                Request::Rollback { project, to: None, expect: None }
            }
            (8, _) => Request::Cancel { number: None },
            (9, _) => {
                let (after, hold) = (someone.event, Millis::secs(someone.rng.between(0, 40)));
                Request::Events { after, hold, stale: someone.rng.chance(300) }
            }
            (_, _) => {
                let project = Box::new(someone.draft.edit(&mut self.registry, &change));
                let keep_going = someone.rng.chance(250);
                Request::Deploy { project, expect: None, keep_going }
            }
        };
        let carries = carries(&request, &change);
        (request, Some(change).filter(|_| carries))
    }

    /// A person asks a node.
    fn ask(&mut self, person: usize, node: NodeId, request: Request, change: Option<String>) {
        let now = self.now;
        let host = self.host_mut(node);
        let (id, boot) = (RequestId(host.next_request), host.boots);
        host.next_request += 1;
        host.waiting.insert(id, Asker::Person(person));
        let asked = Asked { person, node, id, at: now, request: request.clone(), change };
        self.people.people[person].asked = Some(asked);
        self.people.people[person].answered = None;
        self.stats.count("questions");
        self.trace.mark(&[40, person as u64, node.0, id.0]);
        let text = format!("person {person} asks {node}: {}", brief(&request));
        self.tell_story(&request, text);
        self.tell(node, boot, Event::Request { id, request, origin: Origin::Client });
    }

    /// A person does not wait for the answer any longer.
    fn hang_up(&mut self, asked: &Asked) {
        let (now, node, id) = (self.now, asked.node, asked.id);
        self.stats.count("questions given up");
        self.trace.transition(now, || format!("person {} hangs up on {node}", asked.person));
        self.people.people[asked.person].asked = None;
        let host = self.host_mut(node);
        host.waiting.remove(&id);
        host.given_up.insert(id);
        let boot = host.boots;
        self.tell(node, boot, Event::RequestDropped { id });
    }

    /// Any node that believes it leads, rightly or not.
    fn somebody_who_claims_to_lead(&mut self, person: usize) -> Option<NodeId> {
        let leads = |belief: &Leadership| matches!(belief, Leadership::Leader { .. });
        let beliefs = self.beliefs().into_iter().filter(|(_, belief)| leads(belief));
        let claim: Vec<NodeId> = beliefs.map(|(node, _)| node).collect();
        let rng = &mut self.people.people[person].rng;
        (!claim.is_empty()).then(|| claim[rng.below(claim.len() as u64) as usize])
    }

    /// The node that is said to lead, so often of a thousand times, or any that is up.
    fn whom_to_ask(&mut self, person: usize, leader_chance: u64) -> Option<NodeId> {
        let said = self.hosts.values().filter(|host| host.is_up()).find_map(|host| {
            match host.fed.leadership {
                Leadership::Leader { .. } => Some(host.id),
                Leadership::Follower { leader, .. } => leader,
            }
        });
        let up: Vec<NodeId> =
            self.hosts.values().filter(|host| host.is_up()).map(|host| host.id).collect();
        if up.is_empty() {
            return None;
        }
        let rng = &mut self.people.people[person].rng;
        let any = up[rng.below(up.len() as u64) as usize];
        let leader = said.filter(|leader| up.contains(leader));
        Some(if rng.chance(leader_chance) { leader.unwrap_or(any) } else { any })
    }

    /// Looking at the status is no news in a timeline.
    fn tell_story(&mut self, request: &Request, text: String) {
        let now = self.now;
        if matches!(request, Request::Status { .. }) {
            self.trace.detail(now, || text);
        } else {
            self.trace.transition(now, || text);
        }
    }

    pub(super) fn answered(&mut self, node: NodeId, id: RequestId, outcome: Outcome) {
        let now = self.now;
        let host = self.host_mut(node);
        let Some(asker) = host.waiting.remove(&id) else {
            // An answer may cross with the news that nobody waits for it.
            if host.given_up.remove(&id) {
                return;
            }
            let nobody = format!("{node} answered request {} twice, or nobody's", id.0);
            super::record(&mut self.violation, now, Err(("answers", nobody)));
            return;
        };
        match asker {
            Asker::Person(person) => self.person_hears(person, &outcome),
            Asker::Machine(machine) => self.machine_hears(machine, &outcome),
            Asker::Operator => {}
            Asker::Node(asker) => {
                let back = self.network.delay();
                self.answer_forward(asker, node, back, Some(outcome));
            }
        }
    }

    fn person_hears(&mut self, person: usize, outcome: &Outcome) {
        let now = self.now;
        let someone = &mut self.people.people[person];
        let Some(asked) = someone.asked.take() else { return };
        someone.answered = Some(outcome.clone());
        let refused = outcome.as_ref().is_err_and(|error| error.code != ErrorCode::Unknown);
        if refused && asked.change.is_some() {
            someone.draft = someone.draft_before.clone();
        }
        if let Ok(Answer::Deployment(view)) = outcome {
            someone.seen = Some(view.fingerprint);
        }
        if let Ok(Answer::Run(view)) = outcome {
            someone.seen_run = Some(view.fingerprint);
        }
        if let Ok(Answer::Events(events)) = outcome {
            someone.event = events.last().map(|event| event.number).or(someone.event);
        }
        if let Ok(Answer::Return { to, plan }) = outcome {
            someone.agreed = Some((*to, plan.fingerprint()));
        }
        self.tell_story(&asked.request, format!("person {person} is told: {}", told(outcome)));
        self.stats.count(match outcome {
            Ok(Answer::Started { .. }) => "deploys acknowledged",
            Ok(Answer::RunStarted { .. }) => "runs acknowledged",
            Ok(Answer::Done) => "changes acknowledged",
            Ok(_) => "answers",
            Err(error) if error.code == ErrorCode::Unknown => "answers unknown",
            Err(_) => "refusals",
        });
        let cluster = &self.log.reference;
        let moment = Moment::Answer { now, asked: &asked, outcome, cluster };
        let observed = self.invariants.observe(&moment);
        super::record(&mut self.violation, now, observed);
    }

    /// The node that was asked is dead.
    pub(super) fn hears_nothing(&mut self, person: usize) {
        if self.people.people[person].asked.take().is_some() {
            self.stats.count("questions without an answer");
        }
    }

    /// People whose question is not answered yet.
    pub(crate) fn waiting_people(&self) -> Vec<usize> {
        let people = self.people.people.iter().enumerate();
        people.filter(|(_, person)| person.asked.is_some()).map(|(number, _)| number).collect()
    }

    /// Asks a node in a test's name and waits for the answer.
    ///
    /// # Panics
    /// If the node does not answer within a minute.
    pub fn request(&mut self, node: NodeId, request: Request) -> Outcome {
        let script = self.people.people.len() - 1;
        self.ask(script, node, request, None);
        let until = self.now + Millis::mins(1);
        while self.people.people[script].answered.is_none() {
            assert!(self.now < until, "{node} does not answer");
            self.step();
        }
        self.people.people[script].answered.take().expect("checked above")
    }
}

/// What only this request says of a node, or only this command.
pub(crate) fn mark(set: &BTreeMap<String, String>) -> Option<&String> {
    set.get(MARK)
}

/// Whether a request is a deploy that carries that change.
fn carries(request: &Request, change: &str) -> bool {
    let Request::Deploy { project, .. } = request else { return false };
    project.services.values().any(|spec| workload::change(spec) == Some(change))
}

fn brief(request: &Request) -> String {
    match request {
        Request::Plan { project } => format!("plan {}", project.name),
        Request::Deploy { project, .. } => format!("deploy {}", project.name),
        Request::Restart { service } => format!("restart {service}"),
        Request::Scale { service, replicas } => format!("scale {service} {replicas}"),
        Request::Rollback { to, .. } => match to {
            Some(to) => format!("go back to #{to}"),
            None => "go back".to_owned(),
        },
        Request::Run { task, .. } => format!("run {task}"),
        Request::RunState { number, .. } => format!("how is run {number}"),
        Request::Runs { .. } => "runs".to_owned(),
        Request::Kill { number } => format!("kill run {number}"),
        Request::Cancel { .. } => "cancel the deploy".to_owned(),
        Request::Promote { .. } => "promote the canaries".to_owned(),
        Request::Deploys { .. } => "history".to_owned(),
        Request::Routes { .. } => "routes".to_owned(),
        Request::Events { after, .. } => format!("events after {after:?}"),
        Request::Deployment { .. } => "how is the deploy".to_owned(),
        Request::Status { stale: false } => "status".to_owned(),
        Request::Status { stale: true } => "status, stale".to_owned(),
        Request::Node { node, .. } => format!("node {node}"),
        Request::Join(ask) => format!("join {}", ask.name),
        Request::CreateToken { .. } => "token".to_owned(),
        Request::RevokeTokens => "revoke tokens".to_owned(),
        Request::Drain { node, on: true } => format!("drain {node}"),
        Request::Drain { node, on: false } => format!("undrain {node}"),
        Request::Label { node, .. } => format!("label {node}"),
        Request::RotateKey { node } => format!("another key for {node}"),
        Request::Certificates { .. } => "certificates".to_owned(),
        Request::ImportCertificate(_) => "import a certificate".to_owned(),
        Request::RemoveCertificate { name } => format!("remove a certificate for {name}"),
        Request::RenewCertificate { name } => format!("renew {name}"),
        Request::RemoveNode { node, force } => format!("remove {node}, force: {force}"),
        Request::Allocs { .. } => "ps".to_owned(),
        Request::Why { subject, .. } => format!("why {subject}"),
        Request::State => "state".to_owned(),
    }
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Ok(Answer::Started { number, .. }) => format!("deploy #{number} started"),
        Ok(Answer::Unchanged) => "nothing to do".to_owned(),
        Ok(Answer::RunStarted { number }) => format!("run {number} started"),
        Ok(Answer::Run(view)) => format!("run {} {}", view.number, view.state),
        Ok(Answer::Runs(views)) => format!("{} runs", views.len()),
        Ok(Answer::Status(status)) => format!("status at {}", status.revision),
        Ok(Answer::Plan(_)) => "the plan".to_owned(),
        Ok(Answer::Return { to, .. }) => format!("the plan back to #{to}"),
        Ok(Answer::Events(events)) => format!("{} events", events.len()),
        Ok(Answer::Routes(view)) => format!("{} routes", view.routes.len()),
        Ok(Answer::Certificates(view)) => format!("{} certificates", view.certificates.len()),
        Ok(Answer::Deploys(deploys)) => format!("{} deploys", deploys.len()),
        Ok(Answer::Deployment(view)) => {
            format!("deploy #{}: {}", view.number, view.state.sentence())
        }
        Ok(Answer::Allocs(views)) => format!("{} allocs", views.len()),
        Ok(Answer::Why(why)) => why.summary.clone(),
        Ok(Answer::State(_)) => "the state".to_owned(),
        Ok(Answer::Node(detail)) => format!("node {}", detail.node.name),
        Ok(Answer::Admitted { node, .. }) => format!("it is {node}"),
        Ok(Answer::Done) => "done".to_owned(),
        Err(error) => format!("{:?}: {}", error.code, error.message),
    }
}
