//! From TOML text to one merged tree in which every key and value knows its place.
//!
//! Reports what is not TOML, keys given twice in a file, and keys given in two files. Decides
//! which later problems can be believed when a file was only half understood. Knows nothing of
//! what the keys mean.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::path::join;
use super::problem::{Location, Problem};
use super::source::Files;

/// A value and its place; for a table that has a header, the header.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Location,
    pub(super) value: Value,
}

/// What TOML can say. Numbers stay text until something asks for them.
#[derive(Clone, Debug)]
pub(super) enum Value {
    String(String),
    Integer(Option<i64>),
    Float(String),
    Boolean(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Table),
}

/// Keys in alphabetical order.
pub(super) type Table = BTreeMap<String, Entry>;

/// One key of a table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Location,
    pub(super) node: Node,
}

impl Value {
    pub(super) fn what(&self) -> &'static str {
        match self {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number with decimals",
            Value::Boolean(_) => "a boolean",
            Value::Datetime => "a date",
            Value::Array(items) if items.iter().any(|i| matches!(i.value, Value::Table(_))) => {
                "an array of tables"
            }
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }
}

/// What was read, and what was wrong while reading.
pub(super) struct Tree {
    pub(super) root: Table,
    pub(super) problems: Vec<Problem>,
    /// Per file, where it stopped being TOML.
    sound_until: Vec<Option<usize>>,
}

/// Problems that say that something is absent: not to be believed of a file that was not TOML.
const ABSENCES: [&str; 3] = ["missing-field", "unknown-reference", "no-port"];

impl Tree {
    /// Whether a problem found later is real, not an echo of broken TOML.
    pub(super) fn trusts(&self, problem: &Problem) -> bool {
        if ABSENCES.contains(&problem.code.as_ref()) {
            return self.sound_until.iter().all(Option::is_none);
        }
        let until = self.sound_until.get(problem.primary.source).copied().flatten();
        until.is_none_or(|broken| problem.primary.end <= broken)
    }
}

/// Reads and merges all files.
pub(super) fn read(files: &Files<'_>) -> Tree {
    let mut tree = Tree { root: Table::new(), problems: Vec::new(), sound_until: Vec::new() };
    for (index, source) in files.sources.iter().enumerate() {
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        let mut sound_until = None;
        let mut lines_seen = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or(source.text.len()..source.text.len());
            let at = files.locate(index, span);
            if error.message().starts_with("duplicate key") {
                tree.problems.push(duplicate(files, at));
                continue;
            }
            sound_until = Some(sound_until.map_or(at.start, |s: usize| s.min(at.start)));
            // What follows a slip on the same line is mostly an echo of it.
            if !lines_seen.contains(&at.line) {
                lines_seen.push(at.line);
                tree.problems.push(syntax(error.message(), at, &source.text));
            }
        }
        // The line before the slip is where it began.
        let line_start = |at: usize| {
            let at = files.locate(index, at..at).start;
            source.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
        };
        tree.sound_until.push(sound_until.map(line_start));
        let read = Reader { files, source: index }.table(table.into_inner());
        merge(&mut tree.root, read, "", &mut tree.problems);
    }
    tree
}

struct Reader<'a> {
    files: &'a Files<'a>,
    source: usize,
}

impl Reader<'_> {
    fn table(&self, table: DeTable<'_>) -> Table {
        let entry = |(key, value): (Spanned<_>, Spanned<DeValue<'_>>)| {
            let at = self.locate(key.span());
            let key: std::borrow::Cow<'_, str> = key.into_inner();
            (key.into_owned(), Entry { key: at, node: self.node(value) })
        };
        table.into_iter().map(entry).collect()
    }

    fn node(&self, value: Spanned<DeValue<'_>>) -> Node {
        let at = self.locate(value.span());
        let value = match value.into_inner() {
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Integer(digits) => {
                Value::Integer(i64::from_str_radix(digits.as_str(), digits.radix()).ok())
            }
            DeValue::Float(digits) => Value::Float(digits.as_str().to_owned()),
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(items) => {
                Value::Array(items.into_iter().map(|item| self.node(item)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node { at, value }
    }

    fn locate(&self, span: Range<usize>) -> Location {
        self.files.locate(self.source, span)
    }
}

/// Joins tables key by key. Files do not override each other: a key in both is a problem.
fn merge(into: &mut Table, from: Table, path: &str, problems: &mut Vec<Problem>) {
    for (key, entry) in from {
        let path = join(path, &key);
        let Some(first) = into.get_mut(&key) else {
            into.insert(key, entry);
            continue;
        };
        match (&mut first.node.value, entry.node.value) {
            (Value::Table(first), Value::Table(second)) => merge(first, second, &path, problems),
            _ => {
                let (here, there) = (entry.key.file_and_line(), first.key.file_and_line());
                problems.push(
                    Problem::new(
                        "duplicate-key",
                        entry.key,
                        format!(
                            "`{path}` is given twice, at \
                             {there} and at {here}"
                        ),
                    )
                    .label("given again here")
                    .note(first.key.clone(), "first defined here")
                    .help(
                        "keep one of the two: files are joined, a later one does not \
                         override an earlier one",
                    ),
                );
            }
        }
    }
}

fn syntax(message: &str, at: Location, text: &str) -> Problem {
    let (said, expected) = match message.split_once(", expected ") {
        Some((said, expected)) => (said, Some(expected)),
        None => (message, None),
    };
    // The parser says this of a value that is bare and of one that is not there.
    if said == "string values must be quoted" {
        return match text.get(at.range()).is_none_or(|value| value.trim().is_empty()) {
            true => Problem::new("syntax", at, "this is not TOML: a key without a value")
                .label("expected a value")
                .help("write the value after the `=`, or leave the line out"),
            false => Problem::new("syntax", at, format!("this is not TOML: {said}"))
                .help("put the value in double quotes"),
        };
    }
    let label = expected.map(|e| format!("expected {e}")).unwrap_or_default();
    let problem = Problem::new("syntax", at, format!("this is not TOML: {said}")).label(label);
    match said {
        "missing value for key" | "key with no value" => {
            problem.help("write `key = value`; a text needs double quotes")
        }
        "invalid basic string" if expected == Some("`\"`") => {
            problem.help("close the text with a double quote")
        }
        "unclosed table" => problem.help("close the header with `]`"),
        _ => problem,
    }
}

fn duplicate(files: &Files<'_>, at: Location) -> Problem {
    let text = &files.sources[at.source].text;
    let line = text[..at.start].rfind('\n').map_or(0, |newline| newline + 1);
    let header = text[line..].lines().next().map(str::trim).filter(|line| line.starts_with('['));
    let key =
        header.map_or(&text[at.range()], |line| line.split('#').next().unwrap_or(line).trim());
    let first = first_definition(text, &at).map(|range| files.locate(at.source, range));
    let problem = Problem::new("duplicate-key", at, format!("`{key}` is given twice"))
        .label("given again here")
        .help("keep one of the two");
    match first {
        Some(first) => problem.note(first, "first defined here"),
        None => problem,
    }
}

/// Finds the earlier line that says the same key or header, as the parser does not tell: for a
/// header anywhere before, for a key back to the header of its table.
fn first_definition(text: &str, at: &Location) -> Option<Range<usize>> {
    let begin = text[..at.start].rfind('\n').map_or(0, |newline| newline + 1);
    let this = text[begin..].lines().next()?;
    let header = this.trim_start().starts_with('[');
    let said = |line: &str| {
        let end = if header { line.find(']') } else { line.find('=') };
        let said: String = line[..end?].chars().filter(|c| !c.is_whitespace()).collect();
        Some(said)
    };
    let wanted = said(this)?;
    let mut first = None;
    let mut end = begin;
    while end > 0 {
        let start = text[..end - 1].rfind('\n').map_or(0, |newline| newline + 1);
        let line = &text[start..end];
        if said(line).is_some_and(|s| s == wanted) {
            let indent = line.len() - line.trim_start().len();
            first = Some(start + indent..start + line.trim_end().len());
        } else if !header && line.trim_start().starts_with('[') {
            break;
        }
        end = start;
    }
    let range = first?;
    // Of `key = value`, the key is what was given twice.
    let length = if header { None } else { text[range.clone()].find('=') };
    match length {
        Some(length) => {
            Some(range.start..range.start + text[range.start..][..length].trim_end().len())
        }
        None => Some(range),
    }
}
