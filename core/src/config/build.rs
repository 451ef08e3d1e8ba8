//! The model from what is well formed in the tree.
//!
//! Fields that the checker found broken are treated as not written, so that the rules can still
//! look at everything else; a project that had any problem is thrown away by the caller. Every
//! field is read through the grammar, so reading one that it lacks fails the first test.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::grammar::{ROOT, Section};
use super::model::{
    ClusterSettings, ContainerSpec, HealthCheck, HealthSpec, Missed, Overlap, PlaceSpec, Project,
    Replicas, RouteMatch, RouteSpec, ServiceSpec, StopSpec, TaskSpec, UpdateOrder, UpdateSpec,
    VolumeKind, VolumeSpec,
};
use super::path::{item, join};
use super::text::Text;
use super::tree::{Node, Table, Value};
use crate::name::Name;
use crate::units::{Bytes, Millicores, Millis};

/// The project that the tree describes, as far as it is well formed.
pub(super) fn project(root: &Table, broken: &BTreeSet<String>) -> Project {
    let reader = Reader { section: &ROOT, table: Some(root), path: String::new(), broken };
    Project {
        name: reader.parsed("project").unwrap_or_else(|| known_name("main")),
        cluster: settings(&reader.table("cluster")),
        services: reader.named("service").map(|(name, r)| (name, service(&r))).collect(),
        tasks: reader.named("task").map(|(name, r)| (name, task(&r))).collect(),
    }
}

fn known_name(text: &str) -> Name {
    text.parse().expect("a lower-case word is a name")
}

fn service(reader: &Reader<'_>) -> ServiceSpec {
    let replicas = match reader.value("replicas") {
        Some(Value::String(_)) => Replicas::EachNode,
        _ => Replicas::Count(reader.integer("replicas").unwrap_or(1)),
    };
    let routes = reader.tables("route").map(|r| route(&r)).collect();
    let container = ContainerSpec {
        port: reader.integer("port").and_then(|port| u16::try_from(port).ok()),
        fixed_port: reader.boolean("fixed_port"),
        health: health(&reader.table("health")),
        stop: stop(&reader.table("stop")),
        volumes: reader.tables("volume").map(|r| volume(&r)).collect(),
        ..container(reader)
    };
    ServiceSpec {
        replicas,
        before: reader.parsed("before"),
        update: update(&reader.table("update"), must_stop_first(replicas, &container)),
        routes,
        place: PlaceSpec { spread: reader.table("place").string("spread"), ..place(reader) },
        container,
    }
}

/// Old and new can never run side by side: one writer per volume, one owner per port and node.
pub(super) fn must_stop_first(replicas: Replicas, container: &ContainerSpec) -> bool {
    let each_node = replicas == Replicas::EachNode;
    container.has_persistent_volume() || (each_node && container.owned_port().is_some())
}

fn task(reader: &Reader<'_>) -> TaskSpec {
    let stop = reader.table("stop");
    let defaults = StopSpec::default();
    let stop = StopSpec {
        signal: stop.string("signal").unwrap_or(defaults.signal),
        grace: stop.parsed("grace").unwrap_or(defaults.grace),
        ..StopSpec::default()
    };
    TaskSpec {
        container: ContainerSpec { stop, ..container(reader) },
        timeout: reader.parsed("timeout").unwrap_or_default(),
        schedule: reader.string("schedule"),
        time_zone: reader.string("time_zone"),
        overlap: match reader.string("overlap").as_deref() {
            Some("allow") => Overlap::Allow,
            Some("replace") => Overlap::Replace,
            Some(_) | None => Overlap::Skip,
        },
        missed: match reader.string("missed").as_deref() {
            Some("skip") => Missed::Skip,
            Some(_) | None => Missed::Run,
        },
        concurrency: reader.integer("concurrency").unwrap_or(1),
        place: place(reader),
    }
}

/// The fields that services and tasks share.
fn container(reader: &Reader<'_>) -> ContainerSpec {
    ContainerSpec {
        image: reader.string("image").unwrap_or_default(),
        port: None,
        fixed_port: false,
        cpu: reader.cores("cpu"),
        memory: reader.parsed::<Bytes>("memory"),
        command: reader.list("command").into_iter().map(|t| Text::from(t.as_str())).collect(),
        env: reader.map("env", |text| Text::from(text)),
        secret_files: reader.map("secret_files", |text| Text::from(text)),
        health: HealthSpec::default(),
        stop: StopSpec::default(),
        volumes: Vec::new(),
        user: reader.string("user"),
        read_only: reader.boolean("read_only"),
        cap_add: reader.list("cap_add"),
        cap_drop: reader.list("cap_drop"),
        tmpfs: reader.list("tmpfs"),
    }
}

fn health(reader: &Reader<'_>) -> HealthSpec {
    let defaults = HealthSpec::default();
    let command = reader.list("command");
    // Where two are written, which is a problem, `tcp` shows whether it was `true`.
    let check = match reader.string("path") {
        _ if reader.boolean("tcp") => HealthCheck::Tcp,
        Some(path) => HealthCheck::Http { path },
        None if !command.is_empty() => HealthCheck::Exec { command },
        None => defaults.check,
    };
    HealthSpec {
        check,
        interval: reader.parsed("interval").unwrap_or(defaults.interval),
        timeout: reader.parsed("timeout").unwrap_or(defaults.timeout),
        healthy_after: reader.integer("healthy_after").unwrap_or(defaults.healthy_after),
        unhealthy_after: reader.integer("unhealthy_after").unwrap_or(defaults.unhealthy_after),
        start_period: reader.parsed("start_period").unwrap_or(defaults.start_period),
    }
}

fn update(reader: &Reader<'_>, must_stop_first: bool) -> UpdateSpec {
    let defaults = UpdateSpec::default();
    let order = match reader.string("order").as_deref() {
        Some("stop-first") => UpdateOrder::StopFirst,
        Some(_) => UpdateOrder::StartFirst,
        None if must_stop_first => UpdateOrder::StopFirst,
        None => defaults.order,
    };
    UpdateSpec {
        parallel: reader.integer("parallel").unwrap_or(defaults.parallel),
        canary: reader.integer("canary").unwrap_or(defaults.canary),
        order,
        healthy_for: reader.parsed("healthy_for").unwrap_or(defaults.healthy_for),
        deadline: reader.parsed("deadline").unwrap_or(defaults.deadline),
    }
}

fn settings(reader: &Reader<'_>) -> ClusterSettings {
    ClusterSettings {
        acme_email: reader.string("acme_email"),
        acme_directory: reader.string("acme_directory"),
        acme_root: reader.string("acme_root"),
        trusted_proxies: reader.value("trusted_proxies").map(|_| reader.list("trusted_proxies")),
    }
}

fn stop(reader: &Reader<'_>) -> StopSpec {
    let defaults = StopSpec::default();
    StopSpec {
        signal: reader.string("signal").unwrap_or(defaults.signal),
        grace: reader.parsed("grace").unwrap_or(defaults.grace),
        drain: reader.parsed("drain").unwrap_or(defaults.drain),
        pre_stop: reader.list("pre_stop"),
    }
}

/// A prefix of whole parts: with a slash at its end it means the same.
fn whole_parts(path: String) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        plain => plain.to_owned(),
    }
}

fn route(reader: &Reader<'_>) -> RouteSpec {
    let listen = reader.integer("listen").and_then(|port| u16::try_from(port).ok());
    let accept = match listen {
        Some(listen) => RouteMatch::Tcp { listen, host: reader.string("host") },
        None => RouteMatch::Http {
            host: reader.string("host").unwrap_or_default(),
            path: whole_parts(reader.string("path").unwrap_or_default()),
        },
    };
    RouteSpec {
        accept,
        strip_prefix: reader.boolean("strip_prefix"),
        websocket: reader.boolean("websocket"),
        timeout: reader.parsed::<Millis>("timeout"),
        max_body: reader.parsed::<Bytes>("max_body"),
        redirect: reader.string("redirect"),
        tls: reader.boolean("tls"),
        hold: reader.parsed::<Millis>("hold").unwrap_or(RouteSpec::HOLD),
        allow: reader.list("allow"),
        rate_limit: reader.integer("rate_limit"),
        burst: reader.integer("burst"),
        basic_auth: reader.map("basic_auth", str::to_owned),
        request_headers: reader.map("request_headers", str::to_owned),
        response_headers: reader.map("response_headers", str::to_owned),
        maintenance: reader.string("maintenance"),
        h2c: reader.boolean("h2c"),
    }
}

fn volume(reader: &Reader<'_>) -> VolumeSpec {
    let size = reader.parsed::<Bytes>("size");
    let kind = match reader.boolean("ephemeral") {
        true => VolumeKind::Ephemeral { size },
        false => VolumeKind::Persistent { size: size.unwrap_or_default() },
    };
    // Stands in for a name that is missing or broken, which is a problem already.
    let name = reader.parsed("name").unwrap_or_else(|| known_name("unnamed"));
    VolumeSpec { name, path: reader.string("path").unwrap_or_default(), kind }
}

/// What services and tasks share of `place`.
fn place(reader: &Reader<'_>) -> PlaceSpec {
    let reader = reader.table("place");
    PlaceSpec {
        require: reader.map("require", str::to_owned),
        prefer: reader.map("prefer", str::to_owned),
        spread: None,
    }
}

/// One section of the tree; a section that was not written has no fields.
struct Reader<'a> {
    section: &'static Section,
    table: Option<&'a Table>,
    path: String,
    broken: &'a BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn value(&self, name: &str) -> Option<&'a Value> {
        debug_assert!(self.section.field(name).is_some(), "`{name}` is not in the grammar");
        let sound = !self.broken.contains(&join(&self.path, name));
        self.table?.get(name).filter(|_| sound).map(|entry| &entry.node.value)
    }

    fn string(&self, name: &str) -> Option<String> {
        self.value(name).and_then(Value::string).map(str::to_owned)
    }

    fn parsed<T: FromStr>(&self, name: &str) -> Option<T> {
        self.value(name).and_then(Value::string)?.parse().ok()
    }

    fn boolean(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Boolean(true)))
    }

    fn integer(&self, name: &str) -> Option<u32> {
        match self.value(name) {
            Some(Value::Integer(Some(number))) => u32::try_from(*number).ok(),
            _ => None,
        }
    }

    fn cores(&self, name: &str) -> Option<Millicores> {
        match self.value(name)? {
            Value::Integer(number) => number.as_ref()?.to_string().parse().ok(),
            Value::Float(text) => text.parse().ok(),
            Value::String(_)
            | Value::Boolean(_)
            | Value::Datetime
            | Value::Array(_)
            | Value::Table(_) => None,
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        let Some(Value::Array(items)) = self.value(name) else { return Vec::new() };
        let text = |node: &Node| node.value.string().unwrap_or_default().to_owned();
        items.iter().map(text).collect()
    }

    fn map<T>(&self, name: &str, read: impl Fn(&str) -> T) -> BTreeMap<String, T> {
        let Some(Value::Table(table)) = self.value(name) else { return BTreeMap::new() };
        let entry = |(key, entry): (&String, &'a super::tree::Entry)| {
            entry.node.value.string().map(|text| (key.clone(), read(text)))
        };
        table.iter().filter_map(entry).collect()
    }

    fn below(&self, name: &str, path: String, node: Option<&'a Node>) -> Reader<'a> {
        let section = self.section.field(name).and_then(|field| field.kind.section());
        let table = node.and_then(|node| node.value.table());
        let section = section.expect("the grammar opens a section here");
        Reader { section, table, path, broken: self.broken }
    }

    fn table(&self, name: &str) -> Reader<'a> {
        let node = self.table.and_then(|table| table.get(name)).map(|entry| &entry.node);
        self.below(name, join(&self.path, name), node)
    }

    fn tables(&self, name: &str) -> impl Iterator<Item = Reader<'a>> {
        let items = match self.value(name) {
            Some(Value::Array(items)) => items.as_slice(),
            _ => &[],
        };
        let path = join(&self.path, name);
        let each = move |(index, node)| self.below(name, item(&path, index), Some(node));
        items.iter().enumerate().map(each)
    }

    fn named(&self, name: &str) -> impl Iterator<Item = (Name, Reader<'a>)> {
        let path = join(&self.path, name);
        let all = self.value(name).and_then(Value::table);
        all.into_iter().flatten().filter_map(move |(key, entry)| {
            let path = join(&path, key);
            let sound = !self.broken.contains(&path);
            let name_of = key.parse::<Name>().ok().filter(|_| sound)?;
            Some((name_of, self.below(name, path, Some(&entry.node))))
        })
    }
}

impl Value {
    /// The table that it is, if it is one.
    pub(super) fn table(&self) -> Option<&Table> {
        match self {
            Value::Table(table) => Some(table),
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime
            | Value::Array(_) => None,
        }
    }

    fn string(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime
            | Value::Array(_)
            | Value::Table(_) => None,
        }
    }
}
