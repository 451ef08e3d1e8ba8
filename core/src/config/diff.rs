//! What differs between two versions of a service, field by field, in a stable order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::model::ServiceSpec;

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Where: `container.env.DEBUG`.
    pub path: String,
    /// What it was; `None` if it was not set.
    pub from: Option<String>,
    /// What it is; `None` if it is not set any more.
    pub to: Option<String>,
}

/// Every field that differs.
pub fn diff(old: Option<&ServiceSpec>, new: Option<&ServiceSpec>) -> Vec<FieldChange> {
    let (old, new) = (fields(old), fields(new));
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

fn fields(spec: Option<&ServiceSpec>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Some(spec) = spec {
        let value = serde_json::to_value(spec).expect("a spec has text keys only");
        flatten(String::new(), &value, &mut found);
    }
    found
}

fn flatten(path: String, value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(path, value, found);
            }
        }
        Value::String(text) => {
            found.insert(path, text.clone());
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            found.insert(path, value.to_string());
        }
    }
}
