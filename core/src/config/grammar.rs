//! The grammar of `mill.toml` as data: every section and field once, with kind, default and doc.
//!
//! The checker, the suggestions, the JSON Schema and the reference page all read the table in
//! `grammar/fields.rs` (routes in `route.rs`), so none of them can know a field that another does not. What a string
//! must look like is in `format`; what takes two fields to know is in `rules`.

mod fields;
mod route;

use serde_json::Value;

use super::format::Format;
use crate::units::{Bytes, Millicores, Millis};

pub use fields::ROOT;

/// The longest duration that a config may ask for: sums of these cannot overflow.
pub const LONGEST: Millis = Millis::mins(366 * 24 * 60);
/// The largest size that a config may ask for.
pub const LARGEST: Bytes = Bytes(1 << 50);
/// The least memory that container engines accept as a limit.
pub const LEAST_MEMORY: Bytes = Bytes(6 << 20);
/// The least cpu that container engines accept as a limit.
pub const LEAST_CPU: Millicores = Millicores(10);
/// More cores than any node has.
pub const MOST_CPU: Millicores = Millicores(1_024_000);
/// More requests each second than one address sends.
pub const MOST_REQUESTS: u32 = 1_000_000;
/// The most replicas of one service.
pub const MOST_REPLICAS: u32 = 1000;

/// A table of the config.
#[derive(Debug)]
pub struct Section {
    /// How its header is written: `service.NAME.health`; empty for the top of the file.
    pub path: &'static str,
    /// One line on what it is for.
    pub doc: &'static str,
    /// Its fields, in the order of the reference.
    pub fields: &'static [Field],
}

/// A key of a table.
#[derive(Debug)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What happens when it is not written.
    pub presence: Presence,
    /// What it means; sentences.
    pub doc: &'static str,
    /// A value as one would write it in TOML; empty for tables.
    pub example: &'static str,
}

/// What happens when a field is not written.
#[derive(Clone, Copy, Debug)]
pub enum Presence {
    /// That is a problem.
    Required,
    /// Nothing stands in for it.
    Optional,
    /// This stands in for it.
    Default(fn() -> Value),
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A string that a format checks.
    Text(&'static Format),
    /// Any string, in which `${secret(NAME)}` and `${service.NAME.address}` mean something.
    Interpolated,
    /// `true` or `false`.
    Boolean,
    /// An integer of this range, ends included.
    Integer(u32, u32),
    /// How many copies: an integer or `"each-node"`.
    Replicas,
    /// `"1m30s"`, from this to [`LONGEST`].
    Duration(Millis),
    /// `"512MiB"`, from this to [`LARGEST`].
    Size(Bytes),
    /// A number of cores, from [`LEAST_CPU`] to [`MOST_CPU`].
    Cores,
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// An array of the inner kind; `true` when it may not be empty.
    List(&'static Kind, bool),
    /// A table whose keys a format checks, with values of the inner kind.
    Map(&'static Format, &'static Kind),
    /// `[path.name]`.
    Table(&'static Section),
    /// `[path.name.NAME]`, any number.
    Named(&'static Section),
    /// `[[path.name]]`, any number.
    Tables(&'static Section),
}

impl Section {
    /// Its header as one would write it: `[service.NAME.health]`, `[[service.NAME.route]]`; empty
    /// for the top of the file.
    pub fn header(&self) -> String {
        let fields = ROOT.all().into_iter().flat_map(|section| section.fields);
        let opens = |kind: &Kind| kind.section().is_some_and(|s| std::ptr::eq(s, self));
        match fields.map(|field| &field.kind).find(|kind| opens(kind)) {
            Some(kind) if kind.is_tables() => format!("[[{}]]", self.path),
            Some(_) => format!("[{}]", self.path),
            None => String::new(),
        }
    }

    /// The field called `name`.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Every section below this one and itself, parents first.
    pub fn all(&'static self) -> Vec<&'static Section> {
        let below = |field: &Field| field.kind.section().map(Section::all).unwrap_or_default();
        std::iter::once(self).chain(self.fields.iter().flat_map(below)).collect()
    }
}

impl Field {
    /// The example as a value; `None` for a field that opens a section.
    pub fn example_value(&self) -> Option<Value> {
        let written: Value = toml::from_str(&format!("example = {}", self.example)).ok()?;
        written.get("example").cloned()
    }
}

impl Kind {
    /// Whether it is written `[[path.name]]`.
    pub fn is_tables(&self) -> bool {
        matches!(self, Kind::Tables(_))
    }

    /// The section that it opens, if it does.
    pub fn section(&self) -> Option<&'static Section> {
        match self {
            Kind::Table(section) | Kind::Named(section) | Kind::Tables(section) => Some(section),
            Kind::Text(_)
            | Kind::Interpolated
            | Kind::Boolean
            | Kind::Integer(..)
            | Kind::Replicas
            | Kind::Duration(_)
            | Kind::Size(_)
            | Kind::Cores
            | Kind::OneOf(_)
            | Kind::List(..)
            | Kind::Map(..) => None,
        }
    }

    /// What a value of this kind is, for use after "expected" and in the reference.
    pub fn what(&self) -> String {
        match self {
            Kind::Text(format) => format.noun.to_owned(),
            Kind::Interpolated => "a string".to_owned(),
            Kind::Boolean => "`true` or `false`".to_owned(),
            Kind::Integer(low, high) => format!("an integer from {low} to {high}"),
            Kind::Replicas => format!("an integer from 0 to {MOST_REPLICAS}, or \"each-node\""),
            Kind::Duration(_) => "a duration like \"30s\"".to_owned(),
            Kind::Size(_) => "a size like \"512MiB\"".to_owned(),
            Kind::Cores => "a number of cores like 0.5".to_owned(),
            Kind::OneOf(words) => {
                let words: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
                words.join(" or ")
            }
            Kind::List(Kind::Text(format), _) => format!("an array of {}", format.plural),
            Kind::List(..) => "an array of strings".to_owned(),
            Kind::Map(..) => "a table of strings".to_owned(),
            Kind::Table(_) | Kind::Named(_) => "a table".to_owned(),
            Kind::Tables(_) => "an array of tables".to_owned(),
        }
    }
}

impl Presence {
    /// The default as one would write it in TOML.
    pub fn default_toml(&self) -> Option<String> {
        match self {
            Presence::Default(value) => Some(value().to_string()),
            Presence::Required | Presence::Optional => None,
        }
    }
}
