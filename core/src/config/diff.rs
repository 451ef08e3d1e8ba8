//! What differs between two versions of a service or a task, in the words of `mill.toml`, in a stable order.
//!
//! Paths and values are spelled as one would write them below `[service.NAME]` or `[task.NAME]`, defaults
//! included. Secrets are only names here, as everywhere in a config.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::model::{
    ClusterSettings, ContainerSpec, HealthCheck, HealthSpec, Missed, Overlap, PlaceSpec, Replicas,
    RouteMatch, RouteSpec, ServiceSpec, StopSpec, TaskSpec, UpdateOrder, UpdateSpec, VolumeKind,
    VolumeSpec,
};
use super::path::{item, join};
use super::spell;
use crate::units::Bytes;

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Where, below the service: `env.DEBUG`, `route[0].host`.
    pub path: String,
    /// What it was; `None` if it was not set.
    pub from: Option<String>,
    /// What it is; `None` if it is not set any more.
    pub to: Option<String>,
}

/// Every field that differs, in the order of their paths.
pub fn diff(old: Option<&ServiceSpec>, new: Option<&ServiceSpec>) -> Vec<FieldChange> {
    differing(fields(old, Fields::service), fields(new, Fields::service))
}

/// The same of a task.
pub fn diff_task(old: &TaskSpec, new: &TaskSpec) -> Vec<FieldChange> {
    differing(fields(Some(old), Fields::task), fields(Some(new), Fields::task))
}

/// What settings of a cluster would change; what is not set stays.
pub fn diff_settings(old: &ClusterSettings, set: &ClusterSettings) -> Vec<FieldChange> {
    let mut new = old.clone();
    new.adopt(set);
    differing(fields(Some(old), Fields::settings), fields(Some(&new), Fields::settings))
}

fn differing(
    mut old: BTreeMap<String, String>,
    mut new: BTreeMap<String, String>,
) -> Vec<FieldChange> {
    let mut paths: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    paths.sort();
    paths.dedup();
    let changes = paths.into_iter().map(|path| {
        let (from, to) = (old.remove(&path), new.remove(&path));
        FieldChange { path, from, to }
    });
    changes.filter(|change| change.from != change.to).collect()
}

fn fields<T>(spec: Option<&T>, read: impl Fn(&mut Fields, &T)) -> BTreeMap<String, String> {
    let mut fields = Fields { at: String::new(), found: BTreeMap::new() };
    spec.into_iter().for_each(|spec| read(&mut fields, spec));
    fields.found
}

/// Fields by path, each with what it holds.
struct Fields {
    /// The table that is being read.
    at: String,
    found: BTreeMap<String, String>,
}

impl Fields {
    fn set(&mut self, key: &str, value: impl ToString) {
        self.found.insert(join(&self.at, key), value.to_string());
    }

    fn set_if(&mut self, key: &str, value: Option<impl ToString>) {
        value.into_iter().for_each(|value| self.set(key, value));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.set(key, spell::text(value));
    }

    fn size(&mut self, key: &str, value: Option<Bytes>) {
        self.set_if(key, value.map(spell::size));
    }

    fn array<'a>(&mut self, key: &str, items: impl IntoIterator<Item = &'a str>) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_some() {
            self.set(key, spell::array(items));
        }
    }

    fn map<'a>(&mut self, key: &str, map: impl IntoIterator<Item = (&'a String, &'a str)>) {
        self.within(key, |fields| map.into_iter().for_each(|(key, value)| fields.text(key, value)));
    }

    fn within(&mut self, key: &str, read: impl FnOnce(&mut Fields)) {
        let at = join(&self.at, key);
        self.under(at, read);
    }

    fn each<T>(&mut self, key: &str, items: &[T], read: impl Fn(&mut Fields, &T)) {
        for (index, one) in items.iter().enumerate() {
            let at = item(&join(&self.at, key), index);
            self.under(at, |fields| read(fields, one));
        }
    }

    fn under(&mut self, at: String, read: impl FnOnce(&mut Fields)) {
        let outer = std::mem::replace(&mut self.at, at);
        read(self);
        self.at = outer;
    }

    fn service(&mut self, spec: &ServiceSpec) {
        let ServiceSpec { replicas, before, container, update, routes, place } = spec;
        match replicas {
            Replicas::Count(count) => self.set("replicas", count),
            Replicas::EachNode => self.set("replicas", "each-node"),
        }
        self.set_if("before", before.as_ref());
        self.container(container);
        self.within("update", |fields| fields.update(update));
        self.each("route", routes, Fields::route);
        self.within("place", |fields| fields.place(place));
    }

    fn task(&mut self, spec: &TaskSpec) {
        let TaskSpec {
            container,
            timeout,
            schedule,
            time_zone,
            overlap,
            missed,
            concurrency,
            place,
        } = spec;
        self.container(container);
        self.set("timeout", timeout);
        schedule.iter().for_each(|schedule| self.text("schedule", schedule));
        time_zone.iter().for_each(|zone| self.text("time_zone", zone));
        if schedule.is_some() {
            self.set(
                "overlap",
                match overlap {
                    Overlap::Skip => "skip",
                    Overlap::Allow => "allow",
                    Overlap::Replace => "replace",
                },
            );
            self.set(
                "missed",
                match missed {
                    Missed::Run => "run",
                    Missed::Skip => "skip",
                },
            );
        }
        self.set("concurrency", concurrency);
        self.within("place", |fields| fields.place(place));
    }

    fn place(&mut self, spec: &PlaceSpec) {
        let PlaceSpec { require, prefer, spread } = spec;
        self.map("require", require.iter().map(|(label, value)| (label, value.as_str())));
        self.map("prefer", prefer.iter().map(|(label, value)| (label, value.as_str())));
        self.set_if("spread", spread.as_ref());
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
        self.text("image", image);
        self.set_if("port", *port);
        self.set("fixed_port", fixed_port);
        self.set_if("cpu", *cpu);
        self.size("memory", *memory);
        self.array("command", command.iter().map(|text| text.source()));
        self.map("env", env.iter().map(|(key, text)| (key, text.source())));
        self.map("secret_files", secret_files.iter().map(|(path, text)| (path, text.source())));
        self.within("health", |fields| fields.health(health));
        self.within("stop", |fields| fields.stop(stop));
        self.each("volume", volumes, Fields::volume);
        self.set_if("user", user.as_ref());
        self.set("read_only", read_only);
        self.array("cap_add", cap_add.iter().map(String::as_str));
        self.array("cap_drop", cap_drop.iter().map(String::as_str));
        self.array("tmpfs", tmpfs.iter().map(String::as_str));
    }

    fn health(&mut self, spec: &HealthSpec) {
        let HealthSpec { check, interval, timeout, healthy_after, unhealthy_after, start_period } =
            spec;
        match check {
            HealthCheck::Running => {}
            HealthCheck::Http { path } => self.text("path", path),
            HealthCheck::Tcp => self.set("tcp", true),
            HealthCheck::Exec { command } => {
                self.array("command", command.iter().map(String::as_str));
            }
        }
        self.set("interval", interval);
        self.set("timeout", timeout);
        self.set("healthy_after", healthy_after);
        self.set("unhealthy_after", unhealthy_after);
        self.set("start_period", start_period);
    }

    fn update(&mut self, spec: &UpdateSpec) {
        let UpdateSpec { parallel, canary, order, healthy_for, deadline } = spec;
        self.set("parallel", parallel);
        self.set("canary", canary);
        match order {
            UpdateOrder::StartFirst => self.set("order", "start-first"),
            UpdateOrder::StopFirst => self.set("order", "stop-first"),
        }
        self.set("healthy_for", healthy_for);
        self.set("deadline", deadline);
    }

    fn settings(&mut self, settings: &ClusterSettings) {
        let ClusterSettings { acme_email, acme_directory, acme_root, trusted_proxies } = settings;
        self.set_if("acme_email", acme_email.as_ref());
        self.set_if("acme_directory", acme_directory.as_ref());
        self.set_if("acme_root", acme_root.as_deref().map(spell::text));
        let proxies = trusted_proxies.as_ref().map(|all| all.iter().map(String::as_str));
        self.set_if("trusted_proxies", proxies.map(spell::array));
    }

    fn stop(&mut self, spec: &StopSpec) {
        let StopSpec { signal, grace, drain, pre_stop } = spec;
        self.text("signal", signal);
        self.set("grace", grace);
        self.set("drain", drain);
        self.array("pre_stop", pre_stop.iter().map(String::as_str));
    }

    fn route(&mut self, spec: &RouteSpec) {
        let RouteSpec {
            accept,
            strip_prefix,
            websocket,
            timeout,
            max_body,
            redirect,
            tls,
            hold,
            allow,
            rate_limit,
            burst,
            basic_auth,
            request_headers,
            response_headers,
            maintenance,
            h2c,
        } = spec;
        match accept {
            RouteMatch::Http { host, path } => {
                self.text("host", host);
                self.text("path", path);
            }
            RouteMatch::Tcp { listen, host } => {
                self.set("listen", listen);
                self.set_if("host", host.as_ref());
                // The rest means nothing there.
                return;
            }
        }
        self.set("strip_prefix", strip_prefix);
        self.set("websocket", websocket);
        self.set_if("timeout", *timeout);
        self.size("max_body", *max_body);
        self.set_if("redirect", redirect.as_ref());
        self.set("tls", tls);
        self.set("hold", hold);
        self.array("allow", allow.iter().map(String::as_str));
        self.set_if("rate_limit", *rate_limit);
        self.set_if("burst", *burst);
        for (name, value) in basic_auth {
            // Told apart, and not shown: plans end up in other people's logs.
            let print = xxhash_rust::xxh3::xxh3_64(value.as_bytes());
            self.set(&join("basic_auth", name), format!("password {:08x}", print >> 32));
        }
        for (name, value) in request_headers {
            self.text(&join("request_headers", name), value);
        }
        for (name, value) in response_headers {
            self.text(&join("response_headers", name), value);
        }
        self.set_if("maintenance", maintenance.as_deref().map(spell::text));
        self.set("h2c", h2c);
    }

    fn volume(&mut self, spec: &VolumeSpec) {
        let VolumeSpec { name, path, kind } = spec;
        self.set("name", name);
        self.text("path", path);
        let (ephemeral, size) = match kind {
            VolumeKind::Persistent { size } => (false, Some(*size)),
            VolumeKind::Ephemeral { size } => (true, *size),
        };
        self.set("ephemeral", ephemeral);
        self.size("size", size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::grammar::ROOT;
    use crate::config::{Source, parse};

    fn service(below: &str) -> ServiceSpec {
        let text = format!("[service.web]\nimage = \"web:1\"\nport = 8080\n{below}");
        let parsed = parse(&[Source { name: "mill.toml".to_owned(), text }]);
        parsed.expect("a valid config").project.services.pop_first().expect("a service").1
    }

    fn check(old: &str, new: &str, expected: &[&str]) {
        let changes = diff(Some(&service(old)), Some(&service(new)));
        let said: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn a_change_is_told_in_the_words_of_the_config() {
        check(
            "memory = \"512MiB\"\ncpu = 0.5\nhealth.tcp = true\nhealth.interval = \"5s\"\n",
            "memory = \"1GiB\"\ncpu = 2\nhealth.path = \"/\"\nhealth.interval = \"10s\"\n",
            &[
                "cpu: 0.5 -> 2",
                "health.interval: 5s -> 10s",
                "health.path: set to /",
                "health.tcp: no longer set (was true)",
                "memory: 512MiB -> 1GiB",
            ],
        );
        check(
            "replicas = 2\ncommand = [\"./web\"]\nenv = { DEBUG = \"1\", A = \"\" }\n",
            "replicas = \"each-node\"\nenv = { A = \"${secret(a)}\" }\n\
             update.order = \"stop-first\"\n",
            &[
                "command: no longer set (was [\"./web\"])",
                "env.A: \"\" -> ${secret(a)}",
                "env.DEBUG: no longer set (was 1)",
                "replicas: 2 -> each-node",
                "update.order: start-first -> stop-first",
            ],
        );
    }

    #[test]
    fn elements_of_arrays_are_told_by_their_index() {
        check(
            "[[service.web.volume]]\nname = \"data\"\npath = \"/data\"\nsize = \"1GiB\"\n",
            "place.require = { disk = \"ssd\" }\n[[service.web.volume]]\nname = \"data\"\n\
             path = \"/data\"\nsize = \"100MB\"\n[[service.web.route]]\nhost = \"a.example\"\n",
            &[
                "place.require.disk: set to ssd",
                "route[0].h2c: set to false",
                "route[0].hold: set to 5s",
                "route[0].host: set to a.example",
                "route[0].path: set to /",
                "route[0].strip_prefix: set to false",
                "route[0].tls: set to false",
                "route[0].websocket: set to false",
                "volume[0].size: 1GiB -> 100MB",
            ],
        );
    }

    #[test]
    fn what_is_equal_is_not_told() {
        check("health.tcp = true\n", "health.tcp = true\nhealth.interval = \"5000ms\"\n", &[]);
    }

    #[test]
    fn every_path_is_a_field_of_the_grammar() {
        let everything = "\
            env.A = \"a\"\nsecret_files.\"/k\" = \"k\"\nplace.require.disk = \"ssd\"\n\
            health.command = [\"true\"]\n[[service.web.volume]]\nname = \"d\"\npath = \"/d\"\n\
            ephemeral = true\n[[service.web.route]]\nlisten = 5432\n";
        let section = |path: &str| ROOT.all().into_iter().find(|s| s.path == path);
        for path in fields(Some(&service(everything)), Fields::service).into_keys() {
            let (table, key) = path.rsplit_once('.').unwrap_or(("", &path));
            let bare = table.trim_end_matches("[0]");
            let of = format!("service.NAME.{bare}");
            let known = match section(of.trim_end_matches('.')) {
                Some(section) => section.field(key).is_some(),
                // A key that the author chose: the table is the field.
                None => {
                    let (of, field) = of.rsplit_once('.').expect("a dotted path");
                    section(of).is_some_and(|section| section.field(field).is_some())
                }
            };
            assert!(known, "{path}");
        }
    }
}
