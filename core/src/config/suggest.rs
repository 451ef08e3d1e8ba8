//! What the author probably meant: the nearest field, the section where a field belongs, the
//! word of another tool, the same value spelled as its type wants it.

use super::grammar::{Kind, LONGEST, ROOT, Section};
use super::problem::{Location, Problem};
use super::tree::{Entry, Node, Value};
use crate::units::{Bytes, Millicores, Millis};

/// The candidate that is likely a slip of `word`, if one is.
pub(super) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let slips = 1 + word.chars().count() / 4;
    let scored = candidates.into_iter().map(|c| (strsim::damerau_levenshtein(word, c), c));
    scored.min_by_key(|(distance, _)| *distance).filter(|(d, _)| *d <= slips).map(|(_, c)| c)
}

/// Words of other tools and near misses, by the section's first word, and what they are here.
const ELSEWHERE: [(&str, &str, &str); 34] = [
    ("", "services", "write `[service.NAME]`: one table, in the singular, for each service"),
    ("", "tasks", "write `[task.NAME]`: one table, in the singular, for each task"),
    ("", "jobs", "write `[task.NAME]`, one table for each task"),
    ("", "name", "the project's name is `project`"),
    ("", "version", "leave it out: the format needs no version"),
    ("", "networks", "leave it out: every service reaches every other by `NAME.mill`"),
    ("", "volumes", "a volume belongs to its service: write `[[service.NAME.volume]]`"),
    ("", "secrets", "secrets are set with `mill secret set` and used as `${secret(NAME)}`"),
    ("service", "ports", "a service has one `port`; for callers from outside, add a `route`"),
    ("service", "expose", "a service has one `port`"),
    ("service", "environment", "did you mean `env`?"),
    ("service", "entrypoint", "`command` replaces the image's command"),
    ("service", "args", "`command` holds the program and its arguments"),
    ("service", "healthcheck", "did you mean `health`?"),
    ("service", "health_check", "did you mean `health`?"),
    ("service", "depends_on", "services start by themselves; `before` names a task to run first"),
    ("service", "restart", "leave it out: what exits is restarted, with backoff"),
    ("service", "count", "did you mean `replicas`?"),
    ("service", "scale", "did you mean `replicas`?"),
    ("service", "instances", "did you mean `replicas`?"),
    ("service", "deploy", "write `replicas`, `[service.NAME.update]` and `[service.NAME.place]`"),
    ("service", "rollout", "did you mean `update`?"),
    ("service", "mem", "did you mean `memory`?"),
    ("service", "mem_limit", "did you mean `memory`?"),
    ("service", "cpus", "did you mean `cpu`?"),
    ("service", "resources", "write `cpu` and `memory` beside `image`"),
    ("service", "labels", "labels belong to nodes; a service asks for them in `place`"),
    ("service", "constraints", "write `[service.NAME.place]` with `require`"),
    ("service", "stop_signal", "write `signal` in `[service.NAME.stop]`"),
    ("service", "stop_grace_period", "write `grace` in `[service.NAME.stop]`"),
    ("service", "privileged", "write the capabilities that it needs in `cap_add`"),
    ("task", "environment", "did you mean `env`?"),
    ("task", "cron", "did you mean `schedule`?"),
    ("task", "timezone", "did you mean `time_zone`?"),
];

/// A key that the section at `path` does not have.
pub(super) fn unknown_field(section: &Section, path: &str, key: &str, entry: &Entry) -> Problem {
    let place = match path {
        "" => "at the top of the file".to_owned(),
        path => format!("in `{path}`"),
    };
    let problem =
        Problem::new("unknown-field", entry.key.clone(), format!("unknown field `{key}`"))
            .label(format!("there is no such field {place}"));
    problem.help(advice(section, path, key))
}

fn advice(section: &Section, path: &str, key: &str) -> String {
    let known = || section.fields.iter().map(|field| field.name);
    let lower = key.to_lowercase().replace('-', "_");
    if let Some(field) = section.field(&lower) {
        return format!("did you mean `{}`?", field.name);
    }
    let sort = section.path.split('.').next().unwrap_or_default();
    let whole = !section.path[sort.len()..].trim_start_matches(".NAME").contains('.');
    let word = ELSEWHERE.iter().find(|(of, word, _)| whole && *of == sort && *word == lower);
    if let Some((_, _, advice)) = word {
        return advice.replace("service.NAME", if path.is_empty() { "service.NAME" } else { path });
    }
    if let Some(field) = lower.strip_suffix('s').and_then(|one| section.field(one)) {
        return match field.kind.is_tables() {
            true => format!("did you mean `[[{path}.{}]]`?", field.name),
            false => format!("did you mean `{}`?", field.name),
        };
    }
    if let Some(advice) = other_section(section, path, &lower) {
        return advice;
    }
    match closest(&lower, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let all: Vec<&str> = known().collect();
            format!("the fields here are {}", all.join(", "))
        }
    }
}

/// The sections of the same service or task that have this field; from the top of the file, all.
fn other_section(section: &Section, path: &str, key: &str) -> Option<String> {
    let sort = section.path.split('.').next().unwrap_or_default();
    let all = ROOT.all();
    let mut having: Vec<&&Section> = all.iter().filter(|s| s.field(key).is_some()).collect();
    having.retain(|s| sort.is_empty() || s.path.split('.').next() == Some(sort));
    if having.is_empty() {
        let owner = all.iter().find(|s| s.field(key).is_some())?;
        return match (sort, owner.path.split('.').next()) {
            ("task", Some("service")) => Some(format!(
                "only services have `{key}`; a task runs to completion, and nobody calls it"
            )),
            ("service", Some("task")) => Some(format!("only tasks have `{key}`")),
            _ => Some(format!("`{key}` belongs in `{}`", header(owner, path))),
        };
    }
    // In a service, `path` could belong to its health, a route or a volume: name them all.
    let shortest = having.iter().map(|s| s.path.matches('.').count()).min()?;
    having.retain(|s| s.path.matches('.').count() == shortest);
    let headers: Vec<String> = having.iter().map(|s| format!("`{}`", header(s, path))).collect();
    Some(format!("`{key}` belongs in {}", headers.join(" or ")))
}

/// A section's header with the names that `path` has, as one would write it.
fn header(section: &Section, path: &str) -> String {
    if section.path.is_empty() {
        return "the top of the file".to_owned();
    }
    let name = path.split(['.', '[']).nth(1).unwrap_or("NAME");
    section.header().replace("NAME", name)
}

/// `[service.env]`: a section of a service where the service's name should be.
pub(super) fn forgotten_name(
    section: &Section,
    path: &str,
    key: &str,
    node: &Node,
    at: &Location,
) -> Option<Problem> {
    let field = section.field(key)?;
    let has_image = matches!(&node.value, Value::Table(table) if table.contains_key("image"));
    if has_image {
        return None;
    }
    let (sort, _) = section.path.split_once('.')?;
    let opens = matches!(field.kind, Kind::Table(_) | Kind::Tables(_) | Kind::Map(..));
    let message = if opens {
        format!("`[{path}]` would be a {sort} called `{key}`")
    } else {
        format!("`{path}` has no {sort} to belong to")
    };
    let written = match (field.kind.is_tables(), opens) {
        (true, _) => format!("[[{sort}.NAME.{key}]]"),
        (false, true) => format!("[{sort}.NAME.{key}]"),
        (false, false) => format!("[{sort}.NAME]"),
    };
    Some(
        Problem::new("missing-name", at.clone(), message)
            .label(format!("the name of the {sort} is missing before this"))
            .help(format!("write `{written}`, with the {sort}'s name for NAME")),
    )
}

/// A size in the spelling of other tools, as it is written here: `512m`, `1Gi`, `10 mb`.
pub(super) fn near_size(text: &str) -> Option<String> {
    let (number, unit) = number_and_unit(text);
    let unit = match unit.as_str() {
        "" | "m" | "mi" | "mib" => "MiB",
        "k" | "ki" | "kib" => "KiB",
        "g" | "gi" | "gib" => "GiB",
        "t" | "ti" | "tib" => "TiB",
        "b" | "byte" | "bytes" => "B",
        "kb" => "KB",
        "mb" => "MB",
        "gb" => "GB",
        "tb" => "TB",
        _ => return None,
    };
    let near = format!("{number}{unit}");
    near.parse::<Bytes>().is_ok().then_some(near)
}

/// A duration in the spelling of other tools, as it is written here: `5`, `5 min`, `1.5h`.
pub(super) fn near_duration(text: &str) -> Option<String> {
    let (number, unit) = number_and_unit(text);
    let unit = match unit.as_str() {
        "" | "s" | "sec" | "secs" | "second" | "seconds" => Millis::secs(1),
        "ms" | "msec" | "millis" | "millisecond" | "milliseconds" => Millis(1),
        "m" | "min" | "mins" | "minute" | "minutes" => Millis::mins(1),
        "h" | "hr" | "hrs" | "hour" | "hours" => Millis::mins(60),
        "d" | "day" | "days" => Millis::mins(24 * 60),
        _ => return None,
    };
    // Cores are read as thousandths, which is what decimals of a unit need too.
    let Millicores(thousandths) = number.parse().ok()?;
    let length = Millis(thousandths.checked_mul(unit.0)? / 1000);
    (length <= LONGEST).then(|| length.to_string())
}

/// A number of cores in thousandths, as it is written here: `500m`.
fn near_cores(text: &str) -> Option<String> {
    let thousandths = text.trim().strip_suffix('m')?.parse().ok()?;
    Some(format!("write `{}`", Millicores(thousandths)))
}

/// The unit in lower case.
fn number_and_unit(text: &str) -> (&str, String) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim().to_lowercase())
}

/// How a value of the wrong type would be written as `kind` wants it.
pub(super) fn same_value_as(kind: &Kind, path: &str, value: &Value, raw: &str) -> Option<String> {
    match (kind, value) {
        (Kind::Duration(_), Value::Integer(Some(n))) => {
            Some(format!("say which unit: `\"{n}s\"` or `\"{n}ms\"`"))
        }
        (Kind::Size(_), Value::Integer(Some(n))) => Some(format!("say which unit: `\"{n}MiB\"`")),
        (
            Kind::Text(_) | Kind::Interpolated | Kind::OneOf(_),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime,
        ) => Some(format!("put it in quotes: `\"{raw}\"`")),
        (Kind::Integer(..) | Kind::Replicas | Kind::Cores, Value::String(text)) => {
            match text.trim().trim_start_matches('+').parse::<f64>() {
                Ok(_) => Some(format!("leave out the quotes: `{}`", text.trim())),
                Err(_) if matches!(kind, Kind::Cores) => near_cores(text),
                Err(_) => near_each_node(kind, text),
            }
        }
        (Kind::Boolean, Value::String(text)) if text == "true" || text == "false" => {
            Some(format!("leave out the quotes: `{text}`"))
        }
        (Kind::List(..), Value::String(text)) => {
            let words: Vec<String> = text.split_whitespace().map(|w| format!("{w:?}")).collect();
            Some(format!("write `[{}]`", words.join(", ")))
        }
        (Kind::Tables(_), Value::Table(_)) => {
            Some(format!("write the header with two brackets: `[[{path}]]`"))
        }
        (Kind::Table(_), Value::Array(_)) => {
            Some(format!("there is one of it: write the header as `[{path}]`"))
        }
        (Kind::Map(..) | Kind::Table(_), _) => Some(format!("write `[{path}]` and keys below it")),
        (Kind::Named(_), _) => {
            let named = if path.contains('.') { path.to_owned() } else { format!("{path}.NAME") };
            Some(format!("write `[{named}]` and its fields below it"))
        }
        _ => None,
    }
}

fn near_each_node(kind: &Kind, text: &str) -> Option<String> {
    let near = strsim::damerau_levenshtein(&text.to_lowercase(), "each-node") <= 3;
    let named = ["global", "all", "every-node", "daemon"].contains(&text);
    (matches!(kind, Kind::Replicas) && (near || named))
        .then(|| "did you mean `\"each-node\"`?".to_owned())
}
