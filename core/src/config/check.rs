//! The tree against the grammar: unknown and missing fields, types, ranges and formats.
//!
//! Looks at one field at a time and collects, for what comes after, where each field stands,
//! which ones are broken and which services are referred to. What takes two fields to know is in
//! `rules`; the sentences about unknown fields are in `suggest`.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::format::{self, Complaint, Format};
use super::grammar::{
    Field, Kind, LARGEST, LEAST_CPU, LONGEST, MOST_CPU, MOST_REPLICAS, Presence, ROOT, Section,
};
use super::path::{item, join};
use super::problem::{Location, Problem};
use super::source::Files;
use super::spell;
use super::suggest;
use super::text::Text;
use super::tree::{Entry, Node, Table, Value};
use crate::name::Name;
use crate::units::{BadQuantity, Bytes, Millicores, Millis};

/// What the later steps need to know about the tree.
#[derive(Default)]
pub(super) struct Facts {
    /// Where each field stands, by path.
    pub(super) spans: BTreeMap<String, Location>,
    /// Paths of fields that hold nothing usable.
    pub(super) broken: BTreeSet<String>,
    /// Services whose address is used, and where.
    pub(super) references: Vec<(Name, Location)>,
}

pub(super) struct Checked {
    pub(super) problems: Vec<Problem>,
    pub(super) facts: Facts,
}

/// Checks every field by itself.
pub(super) fn check(files: &Files<'_>, root: &Table) -> Checked {
    let mut checker = Checker { files, problems: Vec::new(), facts: Facts::default() };
    if let Some(beginning) = files.beginning() {
        checker.facts.spans.insert(String::new(), beginning.clone());
        checker.section(&ROOT, "", root, &beginning);
    }
    Checked { problems: checker.problems, facts: checker.facts }
}

/// A kind of quantity.
struct Sort<T> {
    code: &'static str,
    spell: fn(T) -> String,
    /// What to write instead of what is not one.
    near: fn(&str) -> Option<String>,
}

const DURATIONS: Sort<Millis> = Sort {
    code: "invalid-duration",
    spell: |length| length.to_string(),
    near: |text| suggest::near_duration(text).map(|near| format!("write `{near}`")),
};
const SIZES: Sort<Bytes> = Sort {
    code: "invalid-size",
    spell: spell::size,
    near: |text| suggest::near_size(text).map(|near| format!("write `{near}`")),
};
const CORES: Sort<Millicores> = Sort {
    code: "invalid-cpu",
    spell: |cores| cores.to_string(),
    near: |text| {
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let (whole, decimals) = text.split_once('.')?;
        let fine = decimals.len() > 3 && digits(whole) && digits(decimals);
        fine.then(|| "write three decimals at most, as in `0.125`".to_owned())
    },
};

struct Checker<'a> {
    files: &'a Files<'a>,
    problems: Vec<Problem>,
    facts: Facts,
}

impl Checker<'_> {
    fn section(&mut self, section: &'static Section, path: &str, table: &Table, header: &Location) {
        for (key, entry) in table {
            match section.field(key) {
                Some(field) => self.field(field, &join(path, key), &entry.node),
                None => {
                    self.problems.push(suggest::unknown_field(section, path, key, entry));
                    self.facts.broken.insert(join(path, key));
                }
            }
        }
        let missing =
            |f: &&Field| matches!(f.presence, Presence::Required) && !table.contains_key(f.name);
        for field in section.fields.iter().filter(missing) {
            self.problems.push(
                Problem::new(
                    "missing-field",
                    header.clone(),
                    format!("`{path}` has no `{}`", field.name),
                )
                .label(format!("`{}` is missing here", field.name))
                .help(format!("add `{} = {}`", field.name, field.example)),
            );
        }
    }

    fn field(&mut self, field: &'static Field, path: &str, node: &Node) {
        self.facts.spans.insert(path.to_owned(), node.at.clone());
        match (&field.kind, &node.value) {
            (Kind::Table(section), Value::Table(table)) => {
                self.section(section, path, table, &node.at);
            }
            (Kind::Named(section), Value::Table(table)) => self.named(section, path, table),
            (Kind::Tables(section), Value::Array(items)) => {
                for (index, node) in items.iter().enumerate() {
                    let path = item(path, index);
                    self.facts.spans.insert(path.clone(), node.at.clone());
                    match node.value.table() {
                        Some(table) => self.section(section, &path, table, &node.at),
                        None => self.wrong_type(&field.kind, &path, node),
                    }
                }
            }
            (kind, _) => self.value(kind, path, node),
        }
    }

    fn named(&mut self, section: &'static Section, path: &str, table: &Table) {
        for (key, Entry { key: at, node }) in table {
            let path = join(path, key);
            self.facts.spans.insert(path.clone(), node.at.clone());
            if let Some(problem) = suggest::forgotten_name(section, &path, key, node, at) {
                self.problems.push(problem);
                self.facts.broken.insert(path);
                continue;
            }
            if let Err(complaint) = (format::NAME.check)(key) {
                self.complain(&format::NAME, &path, at.clone(), complaint);
            }
            match node.value.table() {
                Some(table) => self.section(section, &path, table, &node.at),
                None => self.wrong_type(&Kind::Named(section), &path, node),
            }
        }
    }

    /// A field that holds a value, not a section.
    fn value(&mut self, kind: &Kind, path: &str, node: &Node) {
        match (kind, &node.value) {
            (Kind::Text(format), Value::String(text)) => self.text(format, path, node, text),
            (Kind::Interpolated, Value::String(text)) => self.interpolated(path, node, text),
            (Kind::Boolean, Value::Boolean(_)) => {}
            (Kind::Integer(low, high), Value::Integer(number)) => {
                self.range(kind, path, node, number.is_some_and(|n| within(n, *low, *high)));
            }
            (Kind::Replicas, Value::Integer(number)) => {
                self.range(kind, path, node, number.is_some_and(|n| within(n, 0, MOST_REPLICAS)));
            }
            (Kind::Replicas, Value::String(text)) if text == "each-node" => {}
            (Kind::Duration(least), Value::String(text)) => {
                self.quantity(&DURATIONS, path, node, text, (*least, LONGEST));
            }
            (Kind::Size(least), Value::String(text)) => {
                self.quantity(&SIZES, path, node, text, (*least, LARGEST));
            }
            (Kind::Cores, Value::Float(text)) => {
                self.quantity(&CORES, path, node, text, (LEAST_CPU, MOST_CPU));
            }
            (Kind::Cores, Value::Integer(number)) => {
                let text = number.unwrap_or(i64::MAX).to_string();
                self.quantity(&CORES, path, node, &text, (LEAST_CPU, MOST_CPU));
            }
            (Kind::OneOf(words), Value::String(text)) => self.word(words, path, node, text),
            (Kind::List(inner, some), Value::Array(items)) => {
                if *some && items.is_empty() {
                    self.push(path, empty_list(path, node));
                }
                for (index, node) in items.iter().enumerate() {
                    let path = item(path, index);
                    self.facts.spans.insert(path.clone(), node.at.clone());
                    self.value(inner, &path, node);
                }
            }
            (Kind::Map(format, inner), Value::Table(table)) => {
                for (key, Entry { key: at, node }) in table {
                    let path = join(path, key);
                    self.facts.spans.insert(path.clone(), node.at.clone());
                    if let Err(complaint) = (format.check)(key) {
                        self.complain(format, &path, at.clone(), complaint);
                    }
                    self.value(inner, &path, node);
                }
            }
            _ => self.wrong_type(kind, path, node),
        }
    }

    fn text(&mut self, format: &'static Format, path: &str, node: &Node, text: &str) {
        if let Some(found) = text.find("${") {
            let end = text[found..].find('}').map_or(text.len(), |end| found + end + 1);
            let at = self.files.within(&node.at, text, found..end);
            self.push(path, not_interpolated(path, at, &text[found..end]));
            return;
        }
        if let Err(mut complaint) = (format.check)(text) {
            let part = complaint.at.take().unwrap_or(0..text.len());
            let whole = part == (0..text.len());
            let at = if whole { node.at.clone() } else { self.files.within(&node.at, text, part) };
            self.complain(format, path, at, complaint);
        }
    }

    fn interpolated(&mut self, path: &str, node: &Node, text: &str) {
        match Text::parse(text) {
            Ok(parsed) => {
                for (name, part) in parsed.services() {
                    let at = self.files.within(&node.at, text, part);
                    self.facts.references.push((name, at));
                }
            }
            Err(all) => {
                for bad in all {
                    let at = self.files.within(&node.at, text, bad.at);
                    self.push(
                        path,
                        Problem::new("bad-interpolation", at, bad.message).help(bad.help),
                    );
                }
            }
        }
        if text.contains('\0') {
            self.push(
                path,
                Problem::new(
                    "invalid-string",
                    node.at.clone(),
                    "a NUL byte cannot be passed to a container",
                ),
            );
        }
    }

    fn range(&mut self, kind: &Kind, path: &str, node: &Node, good: bool) {
        if !good {
            let name = last(path);
            let problem =
                Problem::new("out-of-range", node.at.clone(), format!("`{name}` is out of range"))
                    .label(format!("expected {}", kind.what()));
            self.push(path, problem);
        }
    }

    fn quantity<T>(
        &mut self,
        sort: &Sort<T>,
        path: &str,
        node: &Node,
        text: &str,
        (least, most): (T, T),
    ) where
        T: FromStr<Err = BadQuantity> + PartialOrd,
    {
        let name = last(path);
        let at = node.at.clone();
        let out_of_range = |how: &str, end: T, than: &str| {
            Problem::new("out-of-range", at.clone(), format!("`{name}` is too {how}"))
                .label(format!("expected {} or {than}", (sort.spell)(end)))
        };
        let problem = match text.parse::<T>() {
            // The reader of durations has an end of its own, which is no advice here.
            Err(bad) if bad.0.contains(" is too long; ") => out_of_range("large", most, "less"),
            Err(bad) => {
                let sentence = bad.to_string();
                let (what, advice) = sentence.split_once("; ").unwrap_or((&sentence, ""));
                let problem = Problem::new(sort.code, at, what);
                match (sort.near)(text) {
                    Some(near) => problem.help(near),
                    None => problem.help(advice),
                }
            }
            Ok(value) if value < least => out_of_range("small", least, "more"),
            Ok(value) if value > most => out_of_range("large", most, "less"),
            Ok(_) => return,
        };
        self.push(path, problem);
    }

    fn word(&mut self, words: &'static [&'static str], path: &str, node: &Node, text: &str) {
        if words.contains(&text) {
            return;
        }
        let expected = Kind::OneOf(words).what();
        let message = format!("`{text}` is not a value of `{}`", last(path));
        let problem = Problem::new("unknown-value", node.at.clone(), message)
            .label(format!("expected {expected}"));
        let wanted = text.replace('_', "-").to_lowercase();
        self.push(
            path,
            match suggest::closest(&wanted, words.iter().copied()) {
                Some(known) => problem.help(format!("did you mean \"{known}\"?")),
                None => problem,
            },
        );
    }

    fn wrong_type(&mut self, kind: &Kind, path: &str, node: &Node) {
        let what = node.value.what();
        let message = format!("`{}` cannot be {what}", last(path));
        let problem = Problem::new("wrong-type", node.at.clone(), message)
            .label(format!("expected {}", kind.what()));
        let raw = &self.files.sources[node.at.source].text[node.at.range()];
        let problem = match suggest::same_value_as(kind, path, &node.value, raw) {
            Some(help) => problem.help(help),
            None => problem,
        };
        self.push(path, problem);
    }

    fn complain(&mut self, format: &Format, path: &str, at: Location, complaint: Complaint) {
        let mut problem = Problem::new(format.code, at, complaint.message);
        problem.help = complaint.help;
        self.push(path, problem);
    }

    fn push(&mut self, path: &str, problem: Problem) {
        self.problems.push(problem);
        self.facts.broken.insert(path.to_owned());
    }
}

fn within(number: i64, low: u32, high: u32) -> bool {
    (i64::from(low)..=i64::from(high)).contains(&number)
}

/// The key that a path ends with, for use in a sentence.
fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, key)| key)
}

fn empty_list(path: &str, node: &Node) -> Problem {
    let name = last(path);
    Problem::new("empty-array", node.at.clone(), format!("`{name}` is empty"))
        .help(format!("write the program and its arguments, or leave `{name}` out"))
}

fn not_interpolated(path: &str, at: Location, what: &str) -> Problem {
    Problem::new(
        "misplaced-interpolation",
        at,
        format!("`{what}` means nothing in `{}`", last(path)),
    )
    .help("only `env`, `command` and `secret_files` are interpolated; write the value itself")
}
