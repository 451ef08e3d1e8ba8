//! What this version parses and does not act on yet.
//!
//! A deploy that asks for any of it is refused, so that nothing in a config is silently ignored.
//! The walk over the model takes every struct apart by name: a field that is added to the model
//! does not compile until it is decided here whether this version acts on it. The reference page
//! marks the same fields.

use std::fmt;

use super::Parsed;
use super::format;
use super::grammar::{Field, Section};
use super::model::{
    ClusterSettings, ContainerSpec, HealthCheck, HealthSpec, PlaceSpec, Project, Replicas,
    ServiceSpec, StopSpec, TaskSpec, UpdateSpec,
};
use super::path::{item, join};
use super::problem::Problem;
use super::text::{Part, Text};
use crate::cluster::task::Overrides;
use crate::name::Name;

/// A part of a config that this version does not act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Where, spelled as in [`Parsed::spans`]: `service.web.volume[0]`.
    pub path: String,
    /// What, in the plural: `volumes`.
    pub what: &'static str,
}

impl Unsupported {
    fn sentence(&self) -> String {
        format!("{} are not supported yet by this version", self.what)
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.sentence())
    }
}

impl Parsed {
    /// What is not supported, each at its place, to be shown like any other problem.
    pub fn problems_for(&self, unsupported: &[Unsupported]) -> Vec<Problem> {
        let problem = |part: &Unsupported| {
            // What stands in no file was not asked for in one.
            let at = self.locate(&part.path)?.clone();
            let help = "leave it out: a deploy that would have to ignore it is refused";
            Some(Problem::new("not-supported-yet", at, part.sentence()).help(help))
        };
        let mut problems: Vec<Problem> = unsupported.iter().filter_map(problem).collect();
        problems.sort_by(|a, b| (&a.primary, &a.message).cmp(&(&b.primary, &b.message)));
        problems
    }
}

/// A field that is not acted on, whatever it holds.
struct Gap {
    /// As in the grammar: `service.NAME.volume`.
    field: &'static str,
    what: &'static str,
}

const TASK_FILES: Gap = Gap { field: "task.NAME.secret_files", what: "secret files" };
const SECRET_FILES: Gap = Gap { field: "service.NAME.secret_files", what: "secret files" };
const VOLUMES: Gap = Gap { field: "service.NAME.volume", what: "volumes" };
/// In interpolated strings; not a field, but spelled like one.
const SECRETS: Gap = Gap { field: "${secret(NAME)}", what: "secrets" };
const GAPS: [Gap; 4] = [TASK_FILES, SECRET_FILES, VOLUMES, SECRETS];

/// Follows what the schema and the reference say of such a field.
pub(super) const NOT_YET: &str = " (not acted on yet)";

/// Whether this version acts on a field or section of the grammar: `service.NAME.stop.grace`; or
/// on a reference in an interpolated string: `${secret(NAME)}`.
pub(super) fn acts_on(field: &str) -> bool {
    let within = |gap: &Gap| {
        field.strip_prefix(gap.field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    !GAPS.iter().any(within)
}

/// What a field means, and whether this version acts on it.
pub(super) fn described(section: &Section, field: &Field) -> String {
    match acts_on(&join(section.path, field.name)) {
        true => field.doc.to_owned(),
        false => format!("{}{NOT_YET}", field.doc),
    }
}

/// Every such part of a project: cluster settings, services by name, tasks by name. A field that
/// holds its default asks for nothing, and is not listed.
pub fn unsupported(project: &Project) -> Vec<Unsupported> {
    let Project { name: _, cluster, services, tasks } = project;
    let ClusterSettings { acme_email: _, acme_directory: _, acme_root: _, trusted_proxies: _ } =
        cluster;
    let mut found = Found(Vec::new());
    services.iter().for_each(|(name, spec)| found.service(name, spec));
    tasks.iter().for_each(|(name, spec)| found.task(name, spec));
    found.0
}

/// What is wrong with what a run is to have in place of its task's, as sentences.
pub(crate) fn problems_of(overrides: &Overrides) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, text) in &overrides.env {
        if let Err(complaint) = (format::ENV_NAME.check)(name) {
            problems.push(complaint.message);
        }
        if name.starts_with("MILL_") {
            problems.push(format!("`{name}` is set by Mill itself"));
        }
        problems.extend(of_text(&format!("env.{name}"), text));
    }
    let command = overrides.command.iter().enumerate();
    problems.extend(command.flat_map(|(i, text)| of_text(&item("command", i), text)));
    problems
}

fn of_text(path: &str, text: &Text) -> Vec<String> {
    if let Err(bad) = Text::parse(text.source()) {
        return bad.iter().map(|bad| format!("{path}: {bad}")).collect();
    }
    let mut found = Found(Vec::new());
    found.text(path, text);
    found.0.iter().map(ToString::to_string).collect()
}

struct Found(Vec<Unsupported>);

impl Found {
    fn push(&mut self, path: String, what: &'static str) {
        self.0.push(Unsupported { path, what });
    }

    fn service(&mut self, name: &Name, spec: &ServiceSpec) {
        let path = join("service", name.as_str());
        let ServiceSpec { replicas, before: _, container, update, routes: _, place } = spec;
        let UpdateSpec { parallel: _, canary: _, order: _, healthy_for: _, deadline: _ } = update;
        let (Replicas::Count(_) | Replicas::EachNode) = replicas;
        let PlaceSpec { require: _, prefer: _, spread: _ } = place;
        self.container(&path, container);
    }

    fn task(&mut self, name: &Name, spec: &TaskSpec) {
        let TaskSpec {
            container,
            timeout: _,
            schedule: _,
            time_zone: _,
            overlap: _,
            missed: _,
            concurrency: _,
            place,
        } = spec;
        let PlaceSpec { require: _, prefer: _, spread: _ } = place;
        self.container(&join("task", name.as_str()), container);
    }

    fn container(&mut self, path: &str, spec: &ContainerSpec) {
        let ContainerSpec {
            image: _,
            port: _,
            fixed_port: _,
            cpu: _,
            memory: _,
            command,
            env,
            secret_files,
            health,
            stop,
            volumes,
            user: _,
            read_only: _,
            cap_add: _,
            cap_drop: _,
            tmpfs: _,
        } = spec;
        let HealthSpec {
            check,
            interval: _,
            timeout: _,
            healthy_after: _,
            unhealthy_after: _,
            start_period: _,
        } = health;
        let (HealthCheck::Running
        | HealthCheck::Http { path: _ }
        | HealthCheck::Tcp
        | HealthCheck::Exec { command: _ }) = check;
        for (index, text) in command.iter().enumerate() {
            self.text(&item(&join(path, "command"), index), text);
        }
        for (key, text) in env {
            self.text(&join(&join(path, "env"), key), text);
        }
        for file in secret_files.keys() {
            self.push(join(&join(path, "secret_files"), file), SECRET_FILES.what);
        }
        let StopSpec { signal: _, grace: _, drain: _, pre_stop: _ } = stop;
        for index in 0..volumes.len() {
            self.push(item(&join(path, "volume"), index), VOLUMES.what);
        }
    }

    fn text(&mut self, path: &str, text: &Text) {
        let parts = text.parts();
        if parts.iter().any(|part| matches!(part, Part::Secret(_))) {
            self.push(path.to_owned(), SECRETS.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::grammar::ROOT;
    use crate::config::{Source, parse};

    const EVERYTHING: &str = r#"
[cluster]
acme_email = "ops@example.com"
[service.web]
image = "web:1"
port = 8080
before = "migrate"
replicas = 3
command = ["./web", "--db", "${service.web.address}"]
env = { B = "$${secret(not)}", A = "${secret(a)} at ${service.web.address}" }
secret_files = { "/run/tls.key" = "${secret(key)}" }
[[service.web.route]]
host = "a.example.com"
[[service.web.route]]
listen = 5432
[[service.web.volume]]
name = "scratch"
path = "/scratch"
ephemeral = true
[task.migrate]
image = "web:1"
timeout = "1m"
env = { A = "${secret(a)}" }
"#;

    fn parsed(text: &str) -> (Parsed, Vec<Source>) {
        let sources = vec![Source { name: "mill.toml".to_owned(), text: text.to_owned() }];
        (parse(&sources).expect("a valid config"), sources)
    }

    #[test]
    fn every_part_that_is_not_acted_on_is_named_by_its_path() {
        let (parsed, _) = parsed(EVERYTHING);
        let found = unsupported(&parsed.project);
        let sentences: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            sentences,
            [
                "service.web.env.A: secrets",
                "service.web.secret_files.\"/run/tls.key\": secret files",
                "service.web.volume[0]: volumes",
                "task.migrate.env.A: secrets",
            ]
            .map(|part| format!("{part} are not supported yet by this version"))
        );
    }

    #[test]
    fn each_of_them_is_a_problem_at_the_line_that_asks_for_it() {
        let (parsed, sources) = parsed(EVERYTHING);
        let problems = parsed.problems_for(&unsupported(&parsed.project));
        let rendered: Vec<String> = problems.iter().map(|p| p.render(&sources)).collect();
        insta::assert_snapshot!(rendered.join("\n"));
    }

    #[test]
    fn what_holds_its_default_asks_for_nothing() {
        let (parsed, _) = parsed("[service.web]\nimage = \"web:1\"\nstop.drain = \"30s\"\n");
        assert_eq!(unsupported(&parsed.project), []);
    }

    #[test]
    fn each_gap_is_a_field_of_the_grammar() {
        let sections = ROOT.all();
        let fields: Vec<String> =
            sections.iter().flat_map(|s| s.fields.iter().map(|f| join(s.path, f.name))).collect();
        for gap in GAPS {
            let reference = gap.field.starts_with("${");
            assert!(reference || fields.iter().any(|field| field == gap.field), "{}", gap.field);
            assert!(!acts_on(gap.field));
        }
        assert!(!acts_on("task.NAME.secret_files") && acts_on("task.NAME.image"));
        assert!(acts_on("service.NAME.stop.grace"));
    }
}
