//! The config reference as Markdown: the field table in another form.
//!
//! `docs/config.md` is its output, kept the same by `tests/config_reference.rs`. Fields that this
//! version does not act on are marked from what `supported` knows.

use std::fmt::Write as _;

use super::grammar::{Field, Kind, LEAST_CPU, MOST_CPU, Presence, ROOT, Section};
use super::path::join;
use super::{spell, supported};
use crate::units::{Bytes, Millis};

/// A config that this version can deploy as it stands.
const EXAMPLE: &str = include_str!("example.toml");

const INTRODUCTION: &str = "\
A project is described in TOML, in one file or in several that are given with `-f` and joined. The
same key in two files, or twice in one, is a problem: a later file does not override an earlier
one. `mill validate` checks without a cluster and reports every problem at once; `mill schema`
prints the same grammar as a JSON Schema for editors.
";

const VALUES: &str = "\
- **Names** of projects, services, tasks and volumes are 1 to 63 lower-case letters, digits and
  hyphens, starting with a letter and not ending with a hyphen.
- **Durations** are whole numbers with units, from the largest to the smallest: `\"1m30s\"`. Units
  are `d`, `h`, `m`, `s` and `ms`; no duration is longer than `\"366d\"`.
- **Sizes** are a number with a unit: `\"512MiB\"`, `\"1.5GiB\"`, `\"100MB\"`. Units with an `i` are
  powers of 1024, those without of 1000.
- **Cores** are a number with up to three decimals: `0.5`.
- **Interpolated** strings may refer to what is known only later:
";

/// What stands for what in interpolated strings.
const REFERENCES: [(&str, &str); 2] = [
    ("${secret(NAME)}", "the value of a secret"),
    (
        "${service.NAME.address}",
        "host and port of a service of this project, as its callers use it",
    ),
];

/// The reference of every section and field of `mill.toml`, as Markdown.
pub fn reference() -> String {
    let mut page = String::from("# `mill.toml`\n\n");
    page.push_str(
        "<!-- Made from core/src/config/grammar/fields.rs by core/src/config/reference.rs; \
         `UPDATE_DOCS=1 cargo test -p mill-core --test config_reference` refreshes it. -->\n\n",
    );
    let _ = writeln!(page, "{INTRODUCTION}\n```toml\n{EXAMPLE}```\n");
    let _ = writeln!(
        page,
        "What is marked \"{}\" is read and checked, but this version cannot do it: a deploy\n\
         that asks for it is refused, so that nothing is silently ignored.\n",
        supported::NOT_YET.trim()
    );
    let _ = write!(page, "## How values are written\n\n{VALUES}");
    for (reference, meaning) in REFERENCES {
        let _ = writeln!(page, "  - `{reference}`: {meaning}{}", mark(reference));
    }
    page.push_str("  - `$${`: a literal `${`\n");
    for section in ROOT.all() {
        describe(&mut page, section);
    }
    page
}

fn describe(page: &mut String, section: &Section) {
    let _ = write!(page, "\n## {}\n\n{}\n", heading(section), section.doc);
    let acted_on = supported::acts_on(section.path);
    if !acted_on {
        let _ = write!(page, "\nThis version does not act on it yet.\n");
    }
    page.push_str("\n| field | type | default | example | meaning |\n");
    page.push_str("| --- | --- | --- | --- | --- |\n");
    for field in section.fields {
        // A section that is marked as a whole need not say so in each line.
        let mark = if acted_on { mark(&join(section.path, field.name)) } else { "" };
        let cells = [
            format!("`{}`", field.name),
            type_of(&field.kind),
            default_of(field),
            code(field.example),
            format!("{}{mark}", field.doc),
        ];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

fn mark(field: &str) -> &'static str {
    if supported::acts_on(field) { "" } else { supported::NOT_YET }
}

fn heading(section: &Section) -> String {
    match section.path {
        "" => "Top of the file".to_owned(),
        _ => format!("`{}`", section.header()),
    }
}

/// The part of a link that names the heading of a section: what is no letter is left out.
fn anchor(section: &Section) -> String {
    section.path.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase()
}

fn type_of(kind: &Kind) -> String {
    match kind {
        Kind::Table(section) | Kind::Named(section) | Kind::Tables(section) => {
            let what = if kind.is_tables() { "tables" } else { "table" };
            format!("[{what}](#{})", anchor(section))
        }
        Kind::Duration(Millis(0)) => "duration".to_owned(),
        Kind::Duration(least) => format!("duration, at least {least}"),
        Kind::Size(Bytes(0)) => "size".to_owned(),
        Kind::Size(least) => format!("size, at least {}", spell::size(*least)),
        Kind::Cores => format!("cores, {LEAST_CPU} to {MOST_CPU}"),
        Kind::Interpolated => "string, interpolated".to_owned(),
        Kind::List(Kind::Interpolated, _) => "array of strings, interpolated".to_owned(),
        Kind::Map(_, Kind::Interpolated) => "table of strings, interpolated".to_owned(),
        Kind::Text(_)
        | Kind::Boolean
        | Kind::Integer(..)
        | Kind::Replicas
        | Kind::OneOf(_)
        | Kind::List(..)
        | Kind::Map(..) => {
            let what = kind.what();
            let bare = what.strip_prefix("a ").or_else(|| what.strip_prefix("an "));
            bare.unwrap_or(&what).to_owned()
        }
    }
}

fn default_of(field: &Field) -> String {
    match field.presence {
        Presence::Required => "required".to_owned(),
        Presence::Optional => String::new(),
        Presence::Default(value) => code(&value().to_string()),
    }
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::supported::unsupported;
    use crate::config::{Source, parse};

    #[test]
    fn the_example_is_valid_and_this_version_can_deploy_it() {
        let source = Source { name: "example.toml".to_owned(), text: EXAMPLE.to_owned() };
        let parsed = parse(&[source]).expect("a valid config");
        assert_eq!(unsupported(&parsed.project), []);
    }

    #[test]
    fn every_section_and_field_is_described_and_every_link_has_its_heading() {
        let page = reference();
        for section in ROOT.all() {
            assert!(page.contains(&format!("## {}\n", heading(section))), "{}", section.path);
            for field in section.fields {
                assert!(page.contains(&format!("\n| `{}` | ", field.name)), "{}", field.name);
                assert!(page.contains(field.doc), "{}", field.doc);
            }
        }
        for (at, _) in page.match_indices("](#") {
            let (link, _) = page[at + 3..].split_once(')').expect("a link is closed");
            assert!(ROOT.all().into_iter().any(|section| anchor(section) == link), "{link}");
        }
    }
}
