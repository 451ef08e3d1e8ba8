//! What takes more than one field to know: references, clashes, combinations that cannot work.
//!
//! Reads the model, and the spans for what was written at all, so that a field which is broken
//! counts as present and is not complained about twice. Rules for one service are here; of one
//! route in `rules/routes.rs`, between services in `rules/clashes.rs`. Two fixed ports of one number clash only when no
//! set of nodes could hold both, since a scheduler can otherwise keep them apart.

mod clashes;
mod routes;

use std::collections::BTreeMap;

use super::build::must_stop_first;
use super::capabilities;
use super::check::Facts;
use super::model::{
    ContainerSpec, HealthCheck, Project, Replicas, ServiceSpec, TaskSpec, UpdateOrder, VolumeKind,
    VolumeSpec,
};
use super::path::{item, join, nearest};
use super::problem::{Location, Problem};
use super::source::Files;
use super::suggest::closest;
use crate::name::Name;
use crate::schedule::Schedule;
use crate::time::Wall;

/// Every problem that a single field does not show.
pub(super) fn check(project: &Project, facts: &Facts, files: &Files<'_>) -> Vec<Problem> {
    let Some(beginning) = files.beginning() else { return Vec::new() };
    let mut rules = Rules { facts, beginning, problems: Vec::new() };
    for (name, service) in &project.services {
        rules.service(&join("service", name.as_str()), service);
    }
    for (name, task) in &project.tasks {
        rules.task(&join("task", name.as_str()), task);
    }
    rules.references(project);
    clashes::check(&mut rules, project);
    rules.problems
}

struct Rules<'a> {
    facts: &'a Facts,
    beginning: Location,
    problems: Vec<Problem>,
}

impl Rules<'_> {
    /// Whether the field was written, well or not.
    fn written(&self, path: &str) -> bool {
        self.facts.spans.contains_key(path)
    }

    /// Whether what the model says of this field is what was meant.
    fn sound(&self, path: &str) -> bool {
        !self.facts.broken.contains(path)
    }

    fn at(&self, path: &str) -> Location {
        nearest(&self.facts.spans, path).unwrap_or(&self.beginning).clone()
    }

    fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn service(&mut self, path: &str, service: &ServiceSpec) {
        self.container(path, &service.container);
        self.ports(path, service);
        self.health(path, &service.container);
        self.update(path, service);
        self.volumes(path, service);
        for (index, route) in service.routes.iter().enumerate() {
            let route_path = item(&join(path, "route"), index);
            routes::check(self, &route_path, route);
            if !self.written(&join(path, "port")) && route.redirect.is_none() {
                self.no_port(path, &route_path, "a route forwards to the service's port");
            }
        }
    }

    fn task(&mut self, path: &str, task: &TaskSpec) {
        self.container(path, &task.container);
        for field in ["time_zone", "overlap", "missed"] {
            let at = join(path, field);
            if self.written(&at) && !self.written(&join(path, "schedule")) {
                let message = format!("`{field}` does nothing without `schedule`");
                let problem = Problem::new("without-effect", self.at(&at), message);
                self.push(problem.help(format!("add `schedule`, or leave `{field}` out")));
            }
        }
        let schedule = join(path, "schedule");
        if self.sound(&schedule)
            && let Some(text) = &task.schedule
            && Schedule::new(text, None).is_some_and(|schedule| schedule.next(Wall(0)).is_none())
        {
            let message = format!("`{text}` never comes");
            let problem = Problem::new("without-effect", self.at(&schedule), message);
            self.push(problem.help("no month that it names has a day that it names"));
        }
    }

    fn container(&mut self, path: &str, container: &ContainerSpec) {
        for key in container.env.keys() {
            let at = join(&join(path, "env"), key);
            let port = key == "PORT" && self.written(&join(path, "port"));
            if port || key.starts_with("MILL_") {
                self.push(
                    Problem::new("reserved-env", self.at(&at), format!("Mill itself sets `{key}`"))
                        .help("leave it out, or use another name"),
                );
            }
        }
        for (index, added) in container.cap_add.iter().enumerate() {
            let at = item(&join(path, "cap_add"), index);
            if added == capabilities::ALL {
                self.push(
                    Problem::new(
                        "unknown-capability",
                        self.at(&at),
                        "`ALL` can be dropped, not added",
                    )
                    .help("name the capabilities that it needs"),
                );
            } else if let Some(dropped) = container.cap_drop.iter().position(|d| d == added) {
                let other = self.at(&item(&join(path, "cap_drop"), dropped));
                self.push(
                    Problem::new(
                        "contradiction",
                        self.at(&at),
                        format!("`{added}` is both added and dropped"),
                    )
                    .note(other, "dropped here")
                    .help("keep one of the two"),
                );
            }
        }
        self.mounts(path, container);
    }

    /// Two things cannot be mounted at one path of a container.
    fn mounts(&mut self, path: &str, container: &ContainerSpec) {
        let volumes = container.volumes.iter().enumerate().map(|(index, volume)| {
            (volume.path.as_str(), join(&item(&join(path, "volume"), index), "path"))
        });
        let tmpfs = container
            .tmpfs
            .iter()
            .enumerate()
            .map(|(index, mount)| (mount.as_str(), item(&join(path, "tmpfs"), index)));
        let files = container.secret_files.keys();
        let files = files.map(|file| (file.as_str(), join(&join(path, "secret_files"), file)));
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        let all = volumes.chain(tmpfs).chain(files);
        let mut all: Vec<(&str, String)> = all.filter(|(mount, _)| !mount.is_empty()).collect();
        // The first in the file is the one that was there first.
        all.sort_by_key(|(_, at)| self.at(at));
        for (mount, at) in all {
            let parts: Vec<&str> = mount.split('/').filter(|part| !part.is_empty()).collect();
            let Some(first) = taken.insert(parts.join("/"), at.clone()) else { continue };
            self.push(
                Problem::new(
                    "duplicate-path",
                    self.at(&at),
                    format!("something is already mounted at `{mount}`"),
                )
                .note(self.at(&first), "first mounted here")
                .help("give each a path of its own"),
            );
        }
    }

    fn ports(&mut self, path: &str, service: &ServiceSpec) {
        if service.container.fixed_port && !self.written(&join(path, "port")) {
            self.no_port(path, &join(path, "fixed_port"), "a fixed port is `port` itself");
        }
    }

    fn no_port(&mut self, path: &str, wanting: &str, why: &str) {
        let header = self.at(path);
        let at = self.at(wanting);
        self.push(
            Problem::new("no-port", at, format!("`{path}` has no `port`"))
                .label(why)
                .note(header, "`port` is missing here")
                .help("add `port = 8080`, with the port that its callers use"),
        );
    }

    fn health(&mut self, path: &str, container: &ContainerSpec) {
        let health = join(path, "health");
        let checks = ["path", "tcp", "command"].map(|check| join(&health, check));
        let tcp_off = !matches!(container.health.check, HealthCheck::Tcp) && self.sound(&checks[1]);
        let written: Vec<&String> = checks
            .iter()
            .filter(|at| self.written(at) && !(tcp_off && **at == checks[1]))
            .collect();
        match written.as_slice() {
            [] if self.written(&health) && self.sound(&health) => {
                let at = self.at(&health);
                self.push(
                    Problem::new("without-effect", at, "this health check checks nothing")
                        .label("no `path`, `tcp` or `command`")
                        .help(
                            "add one of `path = \"/healthz\"`, `tcp = true`, `command = [...]`, \
                             or leave the table out: then a container that runs is healthy",
                        ),
                );
            }
            [] => {}
            [one] => {
                let needs_port = **one != checks[2];
                if needs_port && !self.written(&join(path, "port")) {
                    self.no_port(path, one, "this probe asks the service's port");
                }
            }
            [first, others @ ..] => {
                for other in others {
                    let (at, first) = (self.at(other), self.at(first));
                    self.push(
                        Problem::new("contradiction", at, "a health check asks one thing")
                            .label("and another check here")
                            .note(first, "one check here")
                            .help("keep one of `path`, `tcp` and `command`"),
                    );
                }
            }
        }
    }

    fn update(&mut self, path: &str, service: &ServiceSpec) {
        let update = join(path, "update");
        let (canary, order) = (join(&update, "canary"), join(&update, "order"));
        let replicas = join(path, "replicas");
        if let Replicas::Count(count) = service.replicas
            && service.update.canary > 0
            && service.update.canary >= count
            && self.sound(&replicas)
        {
            let message = match count {
                1 => "`canary` leaves no replica to follow: there is only 1".to_owned(),
                count => format!("`canary` leaves no replica to follow: there are only {count}"),
            };
            let note = self.at(&replicas);
            self.push(
                Problem::new("canary-too-large", self.at(&canary), message)
                    .note(
                        note,
                        if self.written(&replicas) {
                            "`replicas`"
                        } else {
                            "`replicas` is 1 without being written"
                        },
                    )
                    .help("watch fewer replicas as canaries, so that some are left to follow"),
            );
        }
        let (soak, deadline) = (service.update.healthy_for, service.update.deadline);
        if soak >= deadline {
            let at = ["healthy_for", "deadline"].map(|f| join(&update, f));
            let at = at.iter().find(|at| self.written(at)).unwrap_or(&update);
            self.push(
                Problem::new(
                    "deadline-too-short",
                    self.at(at),
                    format!(
                        "no update can succeed: each replica is watched for {soak}, and all \
                         must be done in {deadline}"
                    ),
                )
                .help("make `deadline` longer than `healthy_for`"),
            );
        }
        let start_first = service.update.order == UpdateOrder::StartFirst;
        if start_first && must_stop_first(service.replicas, &service.container) {
            let (cause, label) = if service.container.has_persistent_volume() {
                let volumes = &service.container.volumes;
                let persistent = volumes.iter().position(VolumeSpec::is_persistent);
                let cause = item(&join(path, "volume"), persistent.unwrap_or_default());
                (cause, "a persistent volume has one writer at a time")
            } else {
                let cause = join(path, "fixed_port");
                (cause, "each node already has the old replica on this port")
            };
            let note = self.at(&cause);
            self.push(
                Problem::new(
                    "must-stop-first",
                    self.at(&order),
                    "a new replica cannot start before the old one is gone",
                )
                .note(note, label)
                .help("write `order = \"stop-first\"`, or leave `order` out"),
            );
        }
    }

    fn volumes(&mut self, path: &str, service: &ServiceSpec) {
        for (index, _) in service.container.volumes.iter().enumerate() {
            let volume = item(&join(path, "volume"), index);
            let found = service.container.volumes.get(index).map(|v| &v.kind);
            let Some(VolumeKind::Persistent { .. }) = found else { continue };
            let at = self.at(&volume);
            if !self.written(&join(&volume, "size")) && !self.written(&join(&volume, "ephemeral")) {
                self.push(
                    Problem::new("missing-field", at.clone(), format!("`{volume}` has no `size`"))
                        .label("a persistent volume has a size")
                        .help(
                            "add `size = \"20GiB\"`, or `ephemeral = true` for data that may be \
                             lost",
                        ),
                );
            }
            let many = match service.replicas {
                Replicas::Count(count) => count > 1,
                Replicas::EachNode => true,
            };
            if many && !self.written(&join(&volume, "ephemeral")) {
                let note = self.at(&join(path, "replicas"));
                self.push(
                    Problem::new(
                        "volume-shared",
                        at,
                        "a persistent volume can have one replica only",
                    )
                    .label("one writer at a time")
                    .note(note, "more than one replica")
                    .help(
                        "write `replicas = 1`, or `ephemeral = true` if each replica can \
                         have data of its own",
                    ),
                );
            }
        }
    }

    fn references(&mut self, project: &Project) {
        for (name, service) in &project.services {
            let Some(task) = &service.before else { continue };
            let at = self.at(&join(&join("service", name.as_str()), "before"));
            if !self.written(&join("task", task.as_str())) {
                let problem =
                    Problem::new("unknown-reference", at, format!("there is no task `{task}`"));
                self.push(problem.help(match near(task, project.tasks.keys()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("add `[task.{task}]`, or leave `before` out"),
                }));
            }
        }
        for (name, at) in &self.facts.references {
            let path = join("service", name.as_str());
            if !self.written(&path) {
                let problem = Problem::new(
                    "unknown-reference",
                    at.clone(),
                    format!("there is no service `{name}` in this project"),
                );
                self.push(problem.help(match near(name, project.services.keys()) {
                    Some(near) => format!("did you mean `${{service.{near}.address}}`?"),
                    None => format!(
                        "add `[service.{name}]`; a service of another project is \
                         reached at `{name}.mill` and its port"
                    ),
                }));
            } else if project.services.contains_key(name) && !self.written(&join(&path, "port")) {
                let header = self.at(&path);
                self.push(
                    Problem::new(
                        "no-port",
                        at.clone(),
                        format!("`{path}` has no `port`, so it has no address"),
                    )
                    .note(header, "`port` is missing here")
                    .help("add `port = 8080`, with the port that its callers use"),
                );
            }
        }
    }
}

fn near<'a>(name: &Name, known: impl Iterator<Item = &'a Name>) -> Option<&'a str> {
    closest(name.as_str(), known.map(Name::as_str))
}
