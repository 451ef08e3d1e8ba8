//! What differs between two versions of a service, in the words and units of `mill.toml`.
//!
//! Every struct is taken apart by name, so that a field which is added to the model and not to
//! this list does not compile. Fields come in the order of their paths.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::config::model::{
    ContainerSpec, HealthCheck, HealthSpec, PlaceSpec, Replicas, RouteMatch, RouteSpec,
    ServiceSpec, StopSpec, UpdateOrder, UpdateSpec, VolumeKind, VolumeSpec,
};

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Where in the service's table: `env.DEBUG`, `health.path`, `route[0].host`.
    pub path: String,
    /// What it was; `None` if it was not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it is; `None` if it is not set any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Every field that differs.
pub(super) fn changes(old: &ServiceSpec, new: &ServiceSpec) -> Vec<FieldChange> {
    let (old, new) = (Fields::of(old).0, Fields::of(new).0);
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let differing = paths.into_iter().filter(|path| old.get(*path) != new.get(*path));
    differing
        .map(|path| FieldChange {
            path: path.clone(),
            from: old.get(path).cloned(),
            to: new.get(path).cloned(),
        })
        .collect()
}

/// What is set, by path.
struct Fields(BTreeMap<String, String>);

impl Fields {
    fn of(spec: &ServiceSpec) -> Fields {
        let ServiceSpec { replicas, before, container, update, routes, place } = spec;
        let mut fields = Fields(BTreeMap::new());
        match replicas {
            Replicas::Count(count) => fields.set("replicas", count),
            Replicas::EachNode => fields.set("replicas", "each-node"),
        }
        fields.set_some("before", before.as_ref());
        fields.container(container);
        fields.update(update);
        routes.iter().enumerate().for_each(|(index, route)| fields.route(index, route));
        fields.place(place);
        fields
    }

    fn set(&mut self, path: impl Into<String>, value: impl Display) {
        self.0.insert(path.into(), value.to_string());
    }

    fn set_some(&mut self, path: impl Into<String>, value: Option<impl Display>) {
        if let Some(value) = value {
            self.set(path, value);
        }
    }

    /// Switches are off where they are not written.
    fn set_on(&mut self, path: impl Into<String>, on: bool) {
        self.set_some(path, on.then_some(true));
    }

    fn set_list<'a>(&mut self, path: &str, items: impl Iterator<Item = &'a str>) {
        let items: Vec<&str> = items.collect();
        self.set_some(path, (!items.is_empty()).then(|| format!("{items:?}")));
    }

    fn container(&mut self, spec: &ContainerSpec) {
        let ContainerSpec {
            image,
            port,
            fixed_port,
            cpu,
            memory,
            command,
            env,
            secret_files,
            health,
            stop,
            volumes,
            user,
            read_only,
            cap_add,
            cap_drop,
            tmpfs,
        } = spec;
        self.set("image", image);
        self.set_some("port", *port);
        self.set_on("fixed_port", *fixed_port);
        self.set_some("cpu", *cpu);
        self.set_some("memory", *memory);
        self.set_list("command", command.iter().map(|text| text.source()));
        env.iter().for_each(|(key, text)| self.set(format!("env.{key}"), text.source()));
        for (path, text) in secret_files {
            self.set(format!("secret_files.{path}"), text.source());
        }
        self.health(health);
        self.stop(stop);
        volumes.iter().for_each(|volume| self.volume(volume));
        self.set_some("user", user.as_ref());
        self.set_on("read_only", *read_only);
        self.set_list("cap_add", cap_add.iter().map(String::as_str));
        self.set_list("cap_drop", cap_drop.iter().map(String::as_str));
        self.set_list("tmpfs", tmpfs.iter().map(String::as_str));
    }

    fn health(&mut self, spec: &HealthSpec) {
        let HealthSpec { check, interval, timeout, healthy_after, unhealthy_after, start_period } =
            spec;
        match check {
            HealthCheck::Running => {}
            HealthCheck::Http { path } => self.set("health.path", path),
            HealthCheck::Tcp => self.set("health.tcp", true),
            HealthCheck::Exec { command } => {
                self.set_list("health.command", command.iter().map(String::as_str));
            }
        }
        self.set("health.interval", interval);
        self.set("health.timeout", timeout);
        self.set("health.healthy_after", healthy_after);
        self.set("health.unhealthy_after", unhealthy_after);
        self.set("health.start_period", start_period);
    }

    fn stop(&mut self, spec: &StopSpec) {
        let StopSpec { signal, grace, drain, pre_stop } = spec;
        self.set("stop.signal", signal);
        self.set("stop.grace", grace);
        self.set("stop.drain", drain);
        self.set_list("stop.pre_stop", pre_stop.iter().map(String::as_str));
    }

    fn volume(&mut self, spec: &VolumeSpec) {
        let VolumeSpec { name, path, kind } = spec;
        self.set(format!("volume.{name}.path"), path);
        match kind {
            VolumeKind::Persistent { size } => self.set(format!("volume.{name}.size"), size),
            VolumeKind::Ephemeral { size } => {
                self.set(format!("volume.{name}.ephemeral"), true);
                self.set_some(format!("volume.{name}.size"), *size);
            }
        }
    }

    fn update(&mut self, spec: &UpdateSpec) {
        let UpdateSpec { parallel, canary, order, healthy_for, deadline } = spec;
        let order = match order {
            UpdateOrder::StartFirst => "start-first",
            UpdateOrder::StopFirst => "stop-first",
        };
        self.set("update.parallel", parallel);
        self.set("update.canary", canary);
        self.set("update.order", order);
        self.set("update.healthy_for", healthy_for);
        self.set("update.deadline", deadline);
    }

    fn route(&mut self, index: usize, spec: &RouteSpec) {
        let RouteSpec { accept, strip_prefix, websocket, timeout, max_body, redirect, tls } = spec;
        let at = |field: &str| format!("route[{index}].{field}");
        match accept {
            RouteMatch::Http { host, path } => {
                self.set(at("host"), host);
                self.set(at("path"), path);
            }
            RouteMatch::Tcp { listen } => self.set(at("listen"), listen),
        }
        self.set_on(at("strip_prefix"), *strip_prefix);
        self.set_on(at("websocket"), *websocket);
        self.set_some(at("timeout"), *timeout);
        self.set_some(at("max_body"), *max_body);
        self.set_some(at("redirect"), redirect.as_ref());
        self.set_on(at("tls"), *tls);
    }

    fn place(&mut self, spec: &PlaceSpec) {
        let PlaceSpec { require, prefer, spread } = spec;
        require.iter().for_each(|(key, value)| self.set(format!("place.require.{key}"), value));
        prefer.iter().for_each(|(key, value)| self.set(format!("place.prefer.{key}"), value));
        self.set_some("place.spread", spread.as_ref());
    }
}
