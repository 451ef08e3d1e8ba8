//! Why something is as it is, from the data that decisions were made of.

use super::Node;
use crate::api::view::WhyView;
use crate::api::{ApiError, ErrorCode};
use crate::brain::services::wanted_slots;
use crate::cluster::alloc::{Alloc, Desired, Status, Trouble};
use crate::cluster::deploy::Service;
use crate::cluster::node::{Liveness, NodeRecord, Trust};
use crate::cluster::task::{Run, Task};
use crate::name::{AllocId, Name, NodeId, Slot};
use crate::net::ZONE;
use crate::scheduler::Watched;

/// The most past events that an answer quotes.
const EVENTS_QUOTED: usize = 5;

impl Node {
    /// Answers for an alloc, a slot, a service or a node, as far as this node knows: what stands in
    /// the way of a decision only the leader does.
    ///
    /// # Errors
    /// If there is no such thing.
    pub fn why(&self, subject: &str) -> Result<WhyView, ApiError> {
        if let Some((id, alloc)) = self.cluster.allocs.get_key_value(&AllocId::known(subject)) {
            return Ok(self.why_alloc(id, alloc));
        }
        if let Ok(place) = subject.parse::<Slot>()
            && let Some(run) = self.cluster.runs.get(&place.index)
            && run.task == place.service
        {
            return Ok(self.why_run(place.index, run));
        }
        if let Ok(name) = subject.parse::<Name>()
            && let Some(task) = self.cluster.tasks.get(&name)
        {
            return Ok(self.why_task(&name, task));
        }
        if let Ok(slot) = subject.parse::<Slot>()
            && let Some(service) = self.cluster.services.get(&slot.service)
        {
            return Ok(self.why_service(&slot.service, service, Some(slot.index)));
        }
        if let Ok(name) = subject.parse::<Name>()
            && let Some(service) = self.cluster.services.get(&name)
        {
            return Ok(self.why_service(&name, service, None));
        }
        if let Some((id, record)) = self.cluster.node_called(subject) {
            return Ok(self.why_node(id, record));
        }
        if let Some(why) = self.why_gone(subject) {
            return Ok(why);
        }
        let message = format!("there is no service, task, slot, run, alloc or node `{subject}`");
        Err(ApiError::new(ErrorCode::NotFound, message).hint("`mill ps` lists what there is"))
    }

    /// Answers for a service, or a slot of one, that is not there any more, by its last deploy.
    fn why_gone(&self, subject: &str) -> Option<WhyView> {
        let slot = subject.parse::<Slot>().ok();
        let name = slot.map(|slot| slot.service).or_else(|| subject.parse().ok())?;
        let mut deploys = self.cluster.deploys.iter().rev();
        let (number, deploy) = deploys.find(|(_, deploy)| deploy.changes.contains_key(&name))?;
        let mut told = deploy.state.sentence().lines().map(str::to_owned).collect::<Vec<_>>();
        told[0] = format!("deploy #{number}: {}", told[0]);
        let summary = format!("{name} does not run and is not to");
        Some(WhyView { subject: subject.to_owned(), summary, because: told })
    }

    fn why_alloc(&self, id: &AllocId, alloc: &Alloc) -> WhyView {
        let mut because = Vec::new();
        if let Desired::Stop { reason } = &alloc.desired {
            because.push(format!("it is to stop: {}", reason.sentence()));
            because.extend(self.why_held(alloc));
        }
        if let Some(trouble) = &alloc.status.trouble {
            because.extend(in_words(trouble));
        }
        if alloc.status.restarts > 0 {
            because.push(format!("it was started again {} times", alloc.status.restarts));
        }
        let status = Status { trouble: None, ..alloc.status.clone() };
        let alloc = Alloc { status, ..alloc.clone() };
        because.extend(self.lately(|subject| subject == id.as_str()));
        WhyView {
            subject: id.to_string(),
            summary: format!("{id} is {}", alloc.sentence()),
            because,
        }
    }

    /// Which nodes may still send something to what is to stop.
    pub(super) fn why_held(&self, alloc: &Alloc) -> Option<String> {
        let since = alloc.awaits_release()?;
        let holders = self.brain.as_ref()?.holders(&self.cluster, since);
        let names: Vec<&str> = holders
            .iter()
            .filter_map(|id| Some(self.cluster.nodes.get(id)?.name.as_str()))
            .collect();
        (!names.is_empty())
            .then(|| format!("nodes that may still send something to it: {}", names.join(", ")))
    }

    fn why_service(&self, name: &Name, service: &Service, slot: Option<u64>) -> WhyView {
        let here = |alloc: &Alloc| slot.is_none_or(|index| alloc.slot.index == index);
        let allocs = || self.cluster.allocs_of(name).filter(|(_, alloc)| here(alloc));
        let prefix = slot.map(|index| format!("{name}.{index}"));
        let subject = prefix.clone().unwrap_or_else(|| name.to_string());
        let wanted = match (slot, service.target()) {
            (Some(_), Some(_)) => 1,
            (None, Some((_, version))) => wanted_slots(&self.cluster, &version.spec).len(),
            (_, None) => 0,
        };
        let healthy = allocs().filter(|(_, a)| a.is_wanted() && is_healthy(a)).count();
        let mut because: Vec<String> = self.waiting(name);
        if let Some(prefix) = &prefix {
            // Lines about one slot begin with its name; the others are about all of them.
            let of_slot = |line: &String| {
                if !line.starts_with(&format!("{name}.")) {
                    return true;
                }
                let rest = line.strip_prefix(prefix.as_str());
                rest.is_some_and(|rest| rest.starts_with([':', '-']))
            };
            because.retain(of_slot);
        }
        for (id, alloc) in allocs() {
            if let (false, Some(trouble)) = (is_healthy(alloc), &alloc.status.trouble) {
                because.push(format!("{id} ({}):", alloc.status.phase_word()));
                because.extend(in_words(trouble).into_iter().map(|line| format!("  {line}")));
            }
        }
        if let Some((number, deploy)) = self.cluster.deploys.iter().next_back()
            && let Some(change) = deploy.changes.get(name)
        {
            because.push(format!("deploy #{number}: {}", deploy.state.sentence()));
            if let Some((how, reason)) = change.failure(change.settled)
                && !deploy.state.is_end()
            {
                because.extend(format!("it {how}: {reason}").lines().map(str::to_owned));
            }
        }
        let ids: Vec<String> = allocs().map(|(id, _)| id.to_string()).collect();
        because.extend(self.lately(|subject| ids.iter().any(|id| id == subject)));
        let mut summary = format!("{healthy} of {wanted} wanted replicas of {subject} are healthy");
        if let (None, Some(called)) = (slot, self.called(name, service)) {
            summary = format!("{summary}; called at {called}");
        }
        WhyView { subject, summary, because }
    }

    /// Where callers find a service.
    fn called(&self, name: &Name, service: &Service) -> Option<String> {
        let (_, version) = service.target()?;
        let port = version.spec.container.port?;
        let network = self.cluster.network;
        let address = network.of_service(service.address);
        let beside = network.ipv6_of_service(service.address).map(|beside| format!(", {beside}"));
        Some(format!("{name}.{ZONE}:{port} ({address}{})", beside.unwrap_or_default()))
    }

    fn why_run(&self, number: u64, run: &Run) -> WhyView {
        let place = run.place(number).to_string();
        let mut because = self.waits_of(number, run);
        let view = self.run_view(number).ok();
        let (state, trouble) = view.map(|view| (view.state, view.trouble)).unwrap_or_default();
        because.extend(trouble.iter().flat_map(in_words));
        because.push(format!("it was {}", run.cause.sentence()));
        let alloc = run.alloc().map(|id| id.to_string());
        because
            .extend(self.lately(|subject| subject == place || Some(subject) == alloc.as_deref()));
        let summary = match run.has_ended() {
            true => format!("run {place} {state}"),
            false => format!("run {place} is {state}"),
        };
        WhyView { subject: place, summary, because }
    }

    fn why_task(&self, name: &Name, task: &Task) -> WhyView {
        let live = self.cluster.live_runs().filter(|(_, run)| run.task == *name);
        let mut because: Vec<String> =
            live.flat_map(|(number, run)| self.waits_of(number, run)).collect();
        let view = self.task_view(name, task);
        because.extend(view.schedule.map(|schedule| {
            let zone = view.time_zone.unwrap_or_else(|| "UTC".to_owned());
            format!("it runs by itself: `{schedule}` in {zone}")
        }));
        if task.current().is_none() {
            because.push("the deploy that brings it is not done yet".to_owned());
        }
        let runs = format!("{name}.");
        because
            .extend(self.lately(|subject| subject == name.as_str() || subject.starts_with(&runs)));
        let summary = match view.last {
            Some(last) if last.outcome.is_some() => {
                format!("its last run, {}, {}", last.id, last.state)
            }
            Some(last) => format!("its last run, {}, is {}", last.id, last.state),
            None => format!("task {name} was not run yet"),
        };
        WhyView { subject: name.to_string(), summary, because }
    }

    fn why_node(&self, id: NodeId, record: &NodeRecord) -> WhyView {
        let state = match record.liveness {
            Liveness::Joining => "joining: it was admitted and has not been heard yet",
            Liveness::Up => "up: the leader hears it",
            Liveness::Down { .. } => "down: the leader has not heard it for too long",
        };
        let live = self.cluster.allocs_on(id).filter(|(_, alloc)| alloc.is_live());
        let mut because = vec![format!("it runs {} allocs", live.count())];
        if record.draining {
            because.push("it drains: it gets nothing new, and what it has moves".to_owned());
        }
        because.extend(self.trouble_of(id));
        because.extend(self.why_watched(record));
        because.extend(self.lately(|subject| subject == id.to_string()));
        let name = &record.name;
        WhyView { subject: name.clone(), summary: format!("node {name} is {state}"), because }
    }

    /// Why a node gets nothing new, while it came and went too often.
    fn why_watched(&self, record: &NodeRecord) -> Option<String> {
        match record.trust {
            Trust::Full => None,
            Trust::Watched => {
                Some(format!("it {}", Watched { returns: record.returns, left: None }))
            }
        }
    }

    /// The last events about a subject.
    pub(super) fn lately(&self, about: impl Fn(&str) -> bool) -> Vec<String> {
        let events = self.cluster.history.events.iter().rev();
        let mut quoted: Vec<String> = events
            .filter(|event| about(&event.subject))
            .take(EVENTS_QUOTED)
            .map(|event| format!("earlier: {} {}", event.subject, first_line(&event.text)))
            .collect();
        quoted.reverse();
        quoted
    }
}

fn is_healthy(alloc: &Alloc) -> bool {
    alloc.status.phase == crate::cluster::alloc::Phase::Healthy
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn in_words(trouble: &Trouble) -> Vec<String> {
    let mut lines = vec![trouble.detail.clone()];
    if !trouble.output.is_empty() {
        lines.push("its last lines:".to_owned());
        lines.extend(trouble.output.iter().map(|line| format!("  {line}")));
    }
    lines
}
