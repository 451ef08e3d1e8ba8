//! The JSON Schema (draft 2020-12) of `mill.toml`, for editors: the field table in another form.
//!
//! It knows what the grammar knows of each field by itself: names, types, ranges, formats. What
//! takes two fields or a longer look, such as image references and cron expressions, is left to
//! `mill validate`, so a file that agrees with the schema may still be refused.

use serde_json::{Map, Value, json};

use super::format::{self, Format};
use super::grammar::{Field, Kind, LEAST_CPU, MOST_CPU, MOST_REPLICAS, Presence, ROOT, Section};
use super::supported;
use crate::units::Millicores;

#[cfg(test)]
pub(super) mod checker;

/// Numbers with units, from the largest unit to the smallest.
const DURATION: &str = "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";
/// Up to three decimals.
const SIZE: &str = "^[0-9]+(\\.[0-9]{1,3})?\\s*([KMGT]i?)?B$";

/// The JSON Schema of a whole `mill.toml`.
pub fn schema() -> Value {
    let mut whole = section(&ROOT);
    let below = ROOT.all().into_iter().filter(|section| !section.path.is_empty());
    let definitions: Map<String, Value> = below.map(|s| (definition(s), section(s))).collect();
    whole["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    whole["title"] = json!("mill.toml");
    whole["$defs"] = Value::Object(definitions);
    whole
}

/// `service.NAME.health` is called `service.health` among the definitions.
fn definition(section: &Section) -> String {
    section.path.replace(".NAME", "")
}

fn reference(section: &Section) -> Value {
    json!({ "$ref": format!("#/$defs/{}", definition(section)) })
}

fn section(section: &Section) -> Value {
    let field = |field: &Field| (field.name.to_owned(), property(section, field));
    let properties: Map<String, Value> = section.fields.iter().map(field).collect();
    let mut table = json!({
        "type": "object",
        "description": section.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    let required = |field: &&Field| matches!(field.presence, Presence::Required);
    let required: Vec<&str> = section.fields.iter().filter(required).map(|f| f.name).collect();
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn property(section: &Section, field: &Field) -> Value {
    let mut property = of_kind(&field.kind);
    property["description"] = json!(supported::described(section, field));
    match field.presence {
        Presence::Default(value) => property["default"] = value(),
        Presence::Required | Presence::Optional => {}
    }
    if let Some(example) = field.example_value() {
        property["examples"] = json!([example]);
    }
    property
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        Kind::Text(format) => text(format),
        Kind::Interpolated => json!({ "type": "string" }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer(low, high) => {
            json!({ "type": "integer", "minimum": low, "maximum": high })
        }
        Kind::Replicas => json!({
            "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": MOST_REPLICAS },
                { "const": "each-node" },
            ],
        }),
        Kind::Duration(_) => json!({ "type": "string", "minLength": 2, "pattern": DURATION }),
        Kind::Size(_) => json!({ "type": "string", "pattern": SIZE }),
        Kind::Cores => {
            json!({ "type": "number", "minimum": cores(LEAST_CPU), "maximum": cores(MOST_CPU) })
        }
        Kind::OneOf(words) => json!({ "enum": words }),
        Kind::List(inner, some) => {
            let mut list = json!({ "type": "array", "items": of_kind(inner) });
            if *some {
                list["minItems"] = json!(1);
            }
            list
        }
        Kind::Map(keys, inner) => json!({
            "type": "object",
            "propertyNames": text(keys),
            "additionalProperties": of_kind(inner),
        }),
        Kind::Table(section) => reference(section),
        Kind::Named(section) => json!({
            "type": "object",
            "propertyNames": text(&format::NAME),
            "additionalProperties": reference(section),
        }),
        Kind::Tables(section) => json!({ "type": "array", "items": reference(section) }),
    }
}

/// A format without a pattern takes anything but an empty string.
fn text(format: &Format) -> Value {
    match format.pattern {
        "" => json!({ "type": "string", "minLength": 1 }),
        pattern => json!({ "type": "string", "pattern": pattern }),
    }
}

fn cores(cores: Millicores) -> Value {
    cores.to_string().parse().expect("a decimal number is JSON")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{Source, parse};

    fn samples(kind: &str) -> Vec<(PathBuf, String)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        assert!(files.len() >= 10);
        files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
    }

    #[test]
    fn every_good_config_agrees_with_the_schema() {
        let schema = schema();
        for (path, text) in samples("good") {
            let value: Value = toml::from_str(&text).unwrap();
            assert_eq!(checker::check(&schema, &value), Vec::<String>::new(), "{}", path.display());
        }
    }

    #[test]
    fn what_the_grammar_refuses_in_one_field_the_schema_refuses_too() {
        let in_one_field = [
            "unknown-field",
            "wrong-type",
            "unknown-value",
            "empty-array",
            "empty-string",
            "invalid-name",
            "invalid-env-name",
            "invalid-user",
            "missing-name",
        ];
        let schema = schema();
        let mut refused = 0;
        for (path, text) in samples("bad") {
            let Ok(value) = toml::from_str::<Value>(&text) else { continue };
            let name = "mill.toml".to_owned();
            let problems = parse(&[Source { name, text }]).expect_err("a bad config");
            if problems.iter().any(|problem| in_one_field.contains(&problem.code.as_ref())) {
                assert_ne!(checker::check(&schema, &value), Vec::<String>::new(), "{path:?}");
                refused += 1;
            }
        }
        assert!(refused > 15, "{refused}");
    }

    #[test]
    fn every_field_is_in_the_schema_and_its_example_and_default_agree_with_it() {
        let schema = schema();
        for section in ROOT.all() {
            let table = match section.path {
                "" => &schema,
                _ => &schema["$defs"][definition(section)],
            };
            let fields: Vec<&str> = section.fields.iter().map(|field| field.name).collect();
            let properties = table["properties"].as_object().unwrap();
            let mut known: Vec<&str> = properties.keys().map(String::as_str).collect();
            known.sort_by_key(|name| fields.iter().position(|field| field == name));
            assert_eq!(known, fields);
            for field in section.fields {
                let property = &properties[field.name];
                let example = field.example_value();
                assert_eq!(example.is_none(), field.kind.section().is_some(), "{}", field.name);
                let default = property.get("default").cloned();
                for value in example.into_iter().chain(default) {
                    let found = checker::check_within(&schema, property, &value);
                    assert_eq!(found, Vec::<String>::new(), "{} {value}", field.name);
                }
            }
        }
    }

    #[test]
    fn the_top_of_the_schema() {
        let mut schema = schema();
        let definitions = schema["$defs"].as_object_mut().unwrap();
        let names: Vec<String> = definitions.keys().cloned().collect();
        schema["$defs"] = json!(names);
        insta::assert_snapshot!(serde_json::to_string_pretty(&schema).unwrap());
    }

    #[test]
    fn one_section_of_the_schema() {
        let health = &schema()["$defs"]["service.health"];
        insta::assert_snapshot!(serde_json::to_string_pretty(health).unwrap());
    }
}
