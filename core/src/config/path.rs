//! Field paths: `service.web.route[0].host`, `service.web.secret_files."/run/key"`.
//!
//! One spelling for spans, problems, plans and the list of unsupported parts.

use std::collections::BTreeMap;

/// The path of `key` in the table at `path`; a key that is not bare is quoted as in TOML.
pub(super) fn join(path: &str, key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let bare = !key.is_empty() && key.bytes().all(plain);
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The path of an element of the array at `path`, from 0.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// What is known at `path`, or at the closest path around it.
pub(super) fn nearest<'a, T>(known: &'a BTreeMap<String, T>, path: &str) -> Option<&'a T> {
    let mut path = path;
    loop {
        if let Some(found) = known.get(path) {
            return Some(found);
        }
        let Some(cut) = path.rfind(['.', '[']) else { return known.get("") };
        path = &path[..cut];
    }
}
