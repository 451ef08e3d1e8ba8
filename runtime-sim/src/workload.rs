//! What people deploy: small projects that change a little each time, and the images in them.

use std::collections::BTreeMap;

use mill_core::config::model::{
    ContainerSpec, HealthCheck, HealthSpec, Missed, Overlap, PlaceSpec, Project, Replicas,
    RouteMatch, RouteSpec, ServiceSpec, StopSpec, TaskSpec, UpdateOrder, UpdateSpec,
};
use mill_core::config::text::Text;
use mill_core::name::Name;
use mill_core::rng::Rng;
use mill_core::units::{Bytes, Millicores, Millis};

use crate::models::registry::{Behaviour, Crash, Registry};

/// So many of a thousand changes move a project's host to another service.
const MOVED_HOSTS: u64 = 300;

/// Names one change: an environment variable that nothing reads.
pub const CHANGE: &str = "CHANGE";

/// The last change that touched a service's containers, if one did.
pub fn change(spec: &ServiceSpec) -> Option<&str> {
    spec.container.env.get(CHANGE).map(Text::source)
}

/// A plain service: a web server with an http health check.
pub fn service(image: &str, replicas: u32) -> ServiceSpec {
    ServiceSpec {
        replicas: Replicas::Count(replicas),
        before: None,
        container: container(image),
        update: UpdateSpec::default(),
        routes: Vec::new(),
        place: PlaceSpec::default(),
    }
}

/// A plain task.
pub fn task(image: &str) -> TaskSpec {
    TaskSpec {
        container: ContainerSpec { port: None, health: HealthSpec::default(), ..container(image) },
        timeout: Millis::mins(1),
        schedule: None,
        time_zone: None,
        overlap: Overlap::default(),
        missed: Missed::default(),
        concurrency: 1,
        place: PlaceSpec::default(),
    }
}

fn container(image: &str) -> ContainerSpec {
    ContainerSpec {
        image: image.to_owned(),
        port: Some(8080),
        fixed_port: false,
        cpu: Some(Millicores(100)),
        memory: Some(Bytes(64 << 20)),
        command: Vec::new(),
        env: BTreeMap::new(),
        secret_files: BTreeMap::new(),
        health: HealthSpec {
            check: HealthCheck::Http { path: "/".to_owned() },
            ..HealthSpec::default()
        },
        stop: StopSpec::default(),
        volumes: Vec::new(),
        user: None,
        read_only: false,
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        tmpfs: Vec::new(),
    }
}

/// A route of a host, with nothing out of the ordinary.
fn route(host: &str) -> RouteSpec {
    RouteSpec::new(RouteMatch::Http { host: host.to_owned(), path: "/".to_owned() })
}

/// A project of these services.
pub fn project(name: &str, services: impl IntoIterator<Item = (Name, ServiceSpec)>) -> Project {
    Project {
        name: name.parse().expect("the workload's names are names"),
        cluster: Default::default(),
        services: services.into_iter().collect(),
        tasks: BTreeMap::new(),
    }
}

/// A project as one person has it on disk.
#[derive(Clone, Debug)]
pub struct Draft {
    project: Project,
    services: u64,
    bad_images: u64,
    builds: u64,
    /// What takes time takes so many times less.
    pace: u64,
    /// Changes that are about tasks, of a thousand.
    tasks: u64,
    rng: Rng,
    /// For what was added to the workload later: what was drawn before stays as it was.
    routes: Rng,
}

impl Draft {
    /// The first version of a project of up to `services` services.
    pub fn new(name: &str, services: u64, bad_images: u64, rng: Rng) -> Draft {
        let (project, routes) = (project(name, []), rng.child("routes"));
        Draft { project, services, bad_images, builds: 0, pace: 1, tasks: 0, rng, routes }
    }

    /// From now on, so many of a thousand changes are about tasks.
    pub(crate) fn with_tasks(mut self, share: u64) -> Draft {
        self.tasks = share;
        self
    }

    /// From now on, what takes time takes so many times less.
    pub(crate) fn hurry(&mut self, pace: u64) {
        self.pace = pace;
    }

    /// A length between two, at this draft's pace.
    fn length(&mut self, low: Millis, high: Millis) -> Millis {
        Millis(self.rng.between(low.0 / 1_000, high.0 / 1_000) * 1_000 / self.pace)
    }

    /// The project's name.
    pub fn project_name(&self) -> Name {
        self.project.name.clone()
    }

    /// The names of its services.
    pub fn names(&self) -> Vec<Name> {
        self.project.services.keys().cloned().collect()
    }

    /// The names of its tasks.
    pub fn tasks(&self) -> Vec<Name> {
        self.project.tasks.keys().cloned().collect()
    }

    /// The same project with something changed; new images are built on the way.
    pub fn edit(&mut self, registry: &mut Registry, change: &str) -> Project {
        for _ in 0..self.rng.between(1, 3) {
            match self.tasks > 0 && self.rng.chance(self.tasks) {
                true => self.edit_tasks(registry),
                false => self.edit_once(registry, change),
            }
        }
        self.move_host();
        self.project.clone()
    }

    /// The project's host leads to one of its services, now and then to another.
    fn move_host(&mut self) {
        let mut open = self.project.services.values_mut().filter(|s| s.container.port.is_some());
        let is_routed = open.any(|service| !service.routes.is_empty());
        if is_routed && !self.routes.chance(MOVED_HOSTS) {
            return;
        }
        let host = format!("{}.example", self.project.name);
        let open = self.project.services.values_mut().filter(|s| s.container.port.is_some());
        let mut open: Vec<&mut ServiceSpec> = open.collect();
        open.iter_mut().for_each(|service| service.routes.clear());
        if !open.is_empty() {
            let chosen = self.routes.below(open.len() as u64) as usize;
            let tls = self.routes.chance(600);
            open[chosen].routes.push(RouteSpec { tls, ..route(&host) });
        }
    }

    fn edit_once(&mut self, registry: &mut Registry, change: &str) {
        let name = self.name();
        let known = self.project.services.contains_key(&name);
        match self.rng.below(10) {
            0 if known && self.project.services.len() > 1 => {
                self.project.services.remove(&name);
            }
            1 | 2 if known => {
                let replicas = self.replicas();
                self.on(&name, |spec| spec.replicas = replicas);
            }
            3 if known => {
                let parallel = self.rng.between(1, 3);
                let order = self.order();
                let canary = self.rng.below(3);
                self.on(&name, |spec| {
                    spec.update.parallel = u32::try_from(parallel).expect("at most 3");
                    spec.update.canary = u32::try_from(canary).expect("at most 2");
                    spec.update.order = order;
                });
            }
            4 | 5 if known => {
                let text = Text::from(change);
                self.on(&name, |spec| {
                    spec.container.env.insert(CHANGE.to_owned(), text);
                });
            }
            6 | 7 if known => {
                // The same tag means something else from now on; what runs must not change.
                let image = self.project.services[&name].container.image.clone();
                registry.publish(&image, self.behaviour());
            }
            _ => self.new_image(&name, registry, change),
        }
    }

    /// A task is added, changed or removed, or a service is to wait for one or no more.
    fn edit_tasks(&mut self, registry: &mut Registry) {
        let name: Name = format!("{}-task-{}", self.project.name, self.rng.below(2))
            .parse()
            .expect("a name, a word and a number are a name");
        let known = self.project.tasks.contains_key(&name);
        match self.rng.below(6) {
            0 if known => {
                self.project.tasks.remove(&name);
                let services = self.project.services.values_mut();
                let waiting = services.filter(|spec| spec.before.as_ref() == Some(&name));
                waiting.for_each(|spec| spec.before = None);
            }
            1 | 2 if known => {
                let service = self.name();
                let before = Some(name).filter(|_| self.rng.chance(800));
                self.on(&service, |spec| spec.before = before);
            }
            _ => self.new_task(name, registry),
        }
    }

    fn new_task(&mut self, name: Name, registry: &mut Registry) {
        self.builds += 1;
        let image = format!("{name}:{}", self.builds);
        if !self.rng.chance(self.bad_images / 4) {
            registry.publish(&image, self.task_behaviour());
        }
        let mut spec = task(&image);
        spec.timeout = self.length(Millis::secs(10), Millis::secs(60));
        spec.concurrency = u32::try_from(self.rng.between(1, 2)).expect("at most 2");
        spec.container.stop.grace = self.length(Millis::secs(1), Millis::secs(20));
        if self.rng.chance(300) {
            spec.schedule = Some(format!("*/{} * * * *", self.rng.between(1, 3)));
            spec.overlap = match self.rng.below(3) {
                0 => Overlap::Skip,
                1 => Overlap::Allow,
                _ => Overlap::Replace,
            };
            spec.missed = if self.rng.chance(500) { Missed::Run } else { Missed::Skip };
        }
        self.project.tasks.insert(name, spec);
    }

    /// Most are done after a while; some fail, or go on until they are stopped.
    fn task_behaviour(&mut self) -> Behaviour {
        let length = Millis(self.rng.between(0, 20_000) / self.pace);
        let crash = match self.rng.below(10) {
            0 | 1 => Crash::Done(length, 3),
            2 => Crash::Never,
            _ => Crash::Done(length, 0),
        };
        Behaviour { crash, ..self.behaviour() }
    }

    fn on(&mut self, name: &Name, edit: impl FnOnce(&mut ServiceSpec)) {
        if let Some(spec) = self.project.services.get_mut(name) {
            edit(spec);
        }
    }

    fn name(&mut self) -> Name {
        let text = format!("{}-{}", self.project.name, self.rng.below(self.services));
        text.parse().expect("a name, a hyphen and a number are a name")
    }

    fn replicas(&mut self) -> Replicas {
        match self.rng.below(12) {
            0 => Replicas::EachNode,
            1 => Replicas::Count(0),
            _ => Replicas::Count(u32::try_from(self.rng.between(1, 4)).expect("at most 4")),
        }
    }

    fn order(&mut self) -> UpdateOrder {
        if self.rng.chance(300) { UpdateOrder::StopFirst } else { UpdateOrder::StartFirst }
    }

    fn new_image(&mut self, name: &Name, registry: &mut Registry, change: &str) {
        self.builds += 1;
        let image = format!("{name}:{}", self.builds);
        let missing = self.rng.chance(self.bad_images / 4);
        if !missing {
            registry.publish(&image, self.behaviour());
        }
        if !self.project.services.contains_key(name) {
            let mut spec = service(&image, 1);
            spec.replicas = self.replicas();
            spec.update.order = self.order();
            spec.update.canary = u32::try_from(self.rng.below(3)).expect("at most 2");
            spec.container.stop.grace = self.length(Millis::secs(1), Millis::secs(20));
            spec.container.health.interval = self.length(Millis::secs(1), Millis::secs(10));
            spec.update.healthy_for = self.length(Millis(0), Millis::secs(15));
            spec.update.deadline = self.length(Millis::secs(20), Millis::secs(300));
            match self.rng.below(10) {
                0 | 1 => {
                    spec.container.port = None;
                    spec.container.health.check = HealthCheck::Running;
                }
                2 => self.own_a_port(name, &mut spec),
                3 => {
                    spec.place.require.insert("zone".to_owned(), "a".to_owned());
                }
                4 => spec.place.spread = Some("zone".to_owned()),
                // Two of them fill a machine: room is scarce where there are few.
                5 => spec.container.cpu = Some(Millicores(3_000)),
                _ => {}
            }
            self.project.services.insert(name.clone(), spec);
        }
        self.on(name, |spec| {
            spec.container.image = image;
            spec.container.env.insert(CHANGE.to_owned(), Text::from(change));
        });
    }

    /// Its image cannot listen on `$PORT`: one replica a node, and the old one goes first.
    fn own_a_port(&mut self, name: &Name, spec: &mut ServiceSpec) {
        let number = name.as_str().bytes().map(u16::from).sum::<u16>();
        spec.container.port = Some(1_000 + number);
        spec.container.fixed_port = true;
        spec.replicas = Replicas::Count(1);
    }

    fn behaviour(&mut self) -> Behaviour {
        let (rng, pace) = (&mut self.rng, self.pace);
        let mut behaviour = Behaviour {
            ready_after: Some(Millis(rng.between(0, 8_000) / pace)),
            stops_after: Some(Millis(rng.between(0, 3_000) / pace)).filter(|_| !rng.chance(50)),
            crash: Crash::Never,
        };
        if rng.chance(self.bad_images) {
            match rng.below(3) {
                0 => behaviour.ready_after = None,
                1 => behaviour.crash = Crash::Always(Millis(rng.between(1, 2_000))),
                _ => behaviour.crash = Crash::Sometimes(Millis::secs(rng.between(20, 300))),
            }
        }
        behaviour
    }
}
