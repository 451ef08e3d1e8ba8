//! Documents for people and programs, made from the replicated state and the leader's reasons.

use std::collections::BTreeSet;

use super::Node;
use crate::api::view::{
    Age, AllocView, DeployServiceView, DeployView, FailedView, NodeView, ReceiptView, RouteView,
    RoutesView, ServiceView, StatusView,
};
use crate::api::{ApiError, ErrorCode};
use crate::brain::sentences;
use crate::brain::services::wanted_slots;
use crate::cluster::alloc::{Alloc, Desired, Phase};
use crate::cluster::deploy::{Deploy, DeployState, Service, Version};
use crate::cluster::node::{Liveness, NodeRecord};
use crate::cluster::receipt::Line;
use crate::event::Leadership;
use crate::name::{AllocId, Name, NodeId};
use crate::net::RouteTable;
use crate::units::{Bytes, Millicores};

impl Node {
    pub(super) fn status_view(&self, age: Option<Age>) -> StatusView {
        let cluster = &self.cluster;
        let last = cluster.deploys.last_key_value();
        StatusView {
            cluster: cluster.id.clone().unwrap_or_default(),
            revision: cluster.revision.to_string(),
            node: self.config.id,
            leader: match self.leadership {
                Leadership::Leader { .. } => Some(self.config.id),
                Leadership::Follower { leader, .. } => leader,
            },
            nodes: cluster.nodes.iter().map(|(id, record)| self.node_view(*id, record)).collect(),
            services: cluster.services.iter().map(|(n, s)| self.service_view(n, s)).collect(),
            tasks: cluster.tasks.iter().map(|(n, t)| self.task_view(n, t)).collect(),
            deploy: last.map(|(number, deploy)| self.view_deploy(*number, deploy)),
            stale: age,
        }
    }

    pub(super) fn routes_view(&self) -> RoutesView {
        let cluster = &self.cluster;
        let view = |RouteTable { service, spec: route }: RouteTable| {
            let healthy = cluster.allocs_of(&service).filter(|(_, alloc)| self.serves(alloc));
            RouteView { healthy: healthy.count(), service, route }
        };
        let unrouted = cluster.nodes.values().filter_map(|node| {
            let why = node.facts.unrouted.clone().filter(|_| node.is_up())?;
            Some((node.name.clone(), why))
        });
        let routes = cluster.routes().into_iter().map(view).collect();
        RoutesView { routes, unrouted: unrouted.collect() }
    }

    pub(super) fn node_view(&self, id: NodeId, record: &NodeRecord) -> NodeView {
        let live = || self.cluster.allocs_on(id).map(|(_, alloc)| alloc).filter(|a| a.is_live());
        let capacity = record.facts.capacity;
        NodeView {
            id,
            name: record.name.clone(),
            up: record.is_up(),
            joining: record.liveness == Liveness::Joining,
            draining: record.draining,
            roles: record.roles,
            votes: self.members.as_ref().is_some_and(|members| members.voters.contains(&id)),
            labels: record.labels.clone(),
            advertise: record.facts.advertise.clone(),
            cpu: (Millicores(live().map(|alloc| alloc.cpu.0).sum()), capacity.cpu),
            memory: (Bytes(live().map(|alloc| alloc.memory.0).sum()), capacity.memory),
            allocs: live().count(),
            version: record.facts.version.clone(),
            trouble: self.trouble_of(id),
        }
    }

    /// Why a node's engine cannot be asked, as far as the leader knows.
    pub(super) fn trouble_of(&self, node: NodeId) -> Option<String> {
        let trouble = self.brain.as_ref()?.trouble_of(node)?;
        Some(trouble.detail.clone())
    }

    fn service_view(&self, name: &Name, service: &Service) -> ServiceView {
        let target = service.target();
        let wanted = target.map_or(0, |(_, v)| wanted_slots(&self.cluster, &v.spec).len());
        let serving = || {
            let allocs = self.cluster.allocs_of(name).map(|(_, alloc)| alloc);
            allocs.filter(|alloc| self.serves(alloc))
        };
        let endpoint = |alloc: &Alloc| {
            let node = self.cluster.nodes.get(&alloc.node)?;
            let host = &node.facts.advertise;
            // An IPv6 address has colons of its own (RFC 3986, section 3.2.2).
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            Some(format!("{host}:{}", alloc.port?))
        };
        ServiceView {
            name: name.clone(),
            project: service.project.clone(),
            image: target.map(|(_, v)| v.spec.container.image.clone()).unwrap_or_default(),
            healthy: count(serving()),
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            version: target.map(|(number, _)| number),
            port: target.and_then(|(_, version)| version.spec.container.port),
            endpoints: serving().filter_map(endpoint).collect(),
            address: target.and_then(|(_, version)| {
                let (port, at) = (version.spec.container.port?, self.cluster.network);
                Some(format!("{}:{port}", at.of_service(service.address)))
            }),
            waiting: self.waiting(name),
        }
    }

    /// Whether requests may go to it.
    fn serves(&self, alloc: &Alloc) -> bool {
        alloc.is_serving(&self.cluster)
    }

    /// What a service waits for, as sentences.
    pub(super) fn waiting(&self, service: &Name) -> Vec<String> {
        let Some(brain) = &self.brain else { return Vec::new() };
        let blocked = sentences(brain.blocked(service));
        let troubles = self.cluster.allocs_of(service).filter(|(_, alloc)| alloc.is_wanted());
        let troubles = troubles.filter_map(|(id, alloc)| {
            let trouble = alloc.status.trouble.as_ref()?;
            let healthy = alloc.status.phase == Phase::Healthy;
            (!healthy).then(|| format!("{id}: {}", trouble.detail))
        });
        let held = self.cluster.allocs_of(service);
        let held = held.filter_map(|(id, a)| Some(format!("{id}: {}", self.why_held(a)?)));
        let here = self.cluster.allocs_of(service).filter(|(_, alloc)| alloc.is_live());
        let nodes: BTreeSet<NodeId> = here.map(|(_, alloc)| alloc.node).collect();
        let engines = nodes.into_iter().filter_map(|node| {
            let name = &self.cluster.nodes.get(&node)?.name;
            Some(format!("node {name}: {}", brain.trouble_of(node)?.detail))
        });
        blocked.into_iter().chain(troubles).chain(held).chain(engines).collect()
    }

    pub(super) fn alloc_views(&self, service: Option<&Name>) -> Result<Vec<AllocView>, ApiError> {
        if let Some(name) = service
            && !self.cluster.services.contains_key(name)
            && !self.cluster.tasks.contains_key(name)
        {
            let message = format!("there is no service or task `{name}`");
            let error = ApiError::new(ErrorCode::NotFound, message);
            return Err(error.hint("`mill status` lists the services"));
        }
        let wanted = |alloc: &Alloc| service.is_none_or(|name| alloc.slot.service == *name);
        let allocs = self.cluster.allocs.iter().filter(|(_, alloc)| wanted(alloc));
        let mut views: Vec<AllocView> =
            allocs.map(|(id, alloc)| self.alloc_view(id, alloc)).collect();
        views.sort_by(|a, b| (&a.slot, &a.id).cmp(&(&b.slot, &b.id)));
        Ok(views)
    }

    pub(super) fn alloc_view(&self, id: &AllocId, alloc: &Alloc) -> AllocView {
        let node = self.cluster.nodes.get(&alloc.node);
        AllocView {
            id: id.clone(),
            slot: alloc.slot.clone(),
            is_run: alloc.run.is_some(),
            node: node.map(|record| record.name.clone()).unwrap_or_default(),
            host: node.map(|record| record.facts.advertise.clone()).unwrap_or_default(),
            port: alloc.port,
            phase: alloc.status.phase,
            stopping: alloc.desired != Desired::Run,
            version: alloc.template,
            image: self.image_of(alloc).unwrap_or_default(),
            restarts: alloc.status.restarts,
            trouble: alloc.status.trouble.clone(),
        }
    }

    fn image_of(&self, alloc: &Alloc) -> Option<String> {
        if let Some(number) = alloc.run {
            return self.cluster.runs.get(&number).map(|run| run.image.reference.clone());
        }
        let service = self.cluster.services.get(&alloc.slot.service)?;
        let version = service.versions.get(&alloc.template)?;
        Some(version.spec.container.image.clone())
    }

    /// The deploy of that number, or the last.
    pub(super) fn deploy_view(&self, number: Option<u64>) -> Result<DeployView, ApiError> {
        let found = match number {
            Some(number) => self.cluster.deploys.get_key_value(&number),
            None => self.cluster.deploys.last_key_value(),
        };
        let missing = || {
            let message = match number {
                Some(number) => format!("there is no deploy #{number}"),
                None => "nothing has been deployed yet".to_owned(),
            };
            ApiError::new(ErrorCode::NotFound, message).hint("`mill status` shows the last one")
        };
        let (number, deploy) = found.ok_or_else(missing)?;
        Ok(self.view_deploy(*number, deploy))
    }

    /// What became of what a deploy stopped, once it has ended: until then whoever watches would
    /// be told all of it with every change.
    fn receipt(&self, deploy: &Deploy) -> Vec<ReceiptView> {
        let mut lines: Vec<_> = deploy.receipt.iter().filter(|_| deploy.state.is_end()).collect();
        lines.sort_by_key(|(_, line)| &line.slot);
        lines.into_iter().map(|(id, line)| self.receipt_view(id, line)).collect()
    }

    fn receipt_view(&self, id: &AllocId, line: &Line) -> ReceiptView {
        let name = |node: &NodeId| match self.cluster.nodes.get(node) {
            Some(record) => record.name.clone(),
            None => node.to_string(),
        };
        let names = |nodes: &BTreeSet<NodeId>| nodes.iter().map(name).collect();
        let released = line.released.as_ref();
        ReceiptView {
            alloc: id.clone(),
            node: line.node.clone(),
            reason: line.reason,
            left: line.left,
            let_go: released.map_or_else(Vec::new, |released| names(&released.by)),
            excused: released.map_or_else(Vec::new, |released| names(&released.excused)),
            released: released.map(|released| released.at),
            gone: line.gone,
            ending: line.ending,
        }
    }

    fn view_deploy(&self, number: u64, deploy: &Deploy) -> DeployView {
        let services = deploy.changes.iter().map(|(name, change)| {
            let service = self.cluster.services.get(name);
            let goal = match deploy.state {
                DeployState::RollingBack { .. } => change.from,
                DeployState::Resolving
                | DeployState::Rolling
                | DeployState::Removing
                | DeployState::Succeeded
                | DeployState::Partial { .. }
                | DeployState::RolledBack { .. }
                | DeployState::RollbackStuck { .. } => change.goal(),
            };
            let version = service.zip(goal).and_then(|(s, goal)| s.versions.get(&goal));
            let ready = |version: &Version| {
                let allocs = self.cluster.allocs_of(name).map(|(_, alloc)| alloc);
                count(allocs.filter(|a| a.template == version.template && self.serves(a)))
            };
            let wanted = version.map_or(0, |v| wanted_slots(&self.cluster, &v.spec).len());
            DeployServiceView {
                service: name.clone(),
                ready: version.map_or(0, ready),
                wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
                settled: change.settled,
                failed: change.failure(change.settled || deploy.state.is_end()).map(
                    |(how, reason)| FailedView { how: how.to_owned(), reason: reason.to_owned() },
                ),
                waiting: if deploy.state.is_end() { Vec::new() } else { self.waiting(name) },
            }
        });
        let mut view = DeployView {
            number,
            project: deploy.project.clone(),
            kind: deploy.kind,
            back_to: deploy.back_to,
            keep_going: deploy.keep_going,
            state: deploy.state.clone(),
            services: services.collect(),
            tasks: deploy.tasks.keys().cloned().collect(),
            gates: self.gate_views(deploy),
            started: deploy.started,
            ended: deploy.ended,
            receipt: self.receipt(deploy),
            fingerprint: 0,
        };
        let bytes = serde_json::to_vec(&view).expect("a view has text keys only");
        // Programs in other languages read numbers as doubles: 52 bits are exact there.
        view.fingerprint = xxhash_rust::xxh3::xxh3_64(&bytes) >> 12;
        view
    }
}

fn count<'a>(allocs: impl Iterator<Item = &'a Alloc>) -> u32 {
    u32::try_from(allocs.count()).unwrap_or(u32::MAX)
}
