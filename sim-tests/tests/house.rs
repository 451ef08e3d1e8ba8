//! Rules of this house that a person would forget, checked on the sources themselves.

#![allow(clippy::unwrap_used, reason = "a file that cannot be read fails its test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file, at most.
const FILE_LINES: usize = 600;
/// Lines of ARCHITECTURE.md, at most.
const ARCHITECTURE_LINES: usize = 400;
/// Crates that core depends on, at most.
const CORE_DEPENDENCIES: usize = 10;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every Rust file of the workspace, with what is in it.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for package in
        ["core", "runtime-real", "runtime-real/consensus", "runtime-sim", "sim-tests", "cli"]
    {
        for folder in ["src", "tests", "benches"] {
            collect(&root().join(package).join(folder), &mut found);
        }
    }
    assert!(found.len() > 100, "the sources were not found");
    found
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
        }
    }
}

/// Names of the files for which something holds that should not.
fn offenders(offends: impl Fn(&Path, &str) -> bool) -> Vec<PathBuf> {
    let all = sources().into_iter();
    all.filter(|(path, text)| offends(path, text)).map(|(path, _)| path).collect()
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    assert_eq!(offenders(|_, text| !text.starts_with("//!")), [] as [PathBuf; 0]);
}

#[test]
fn no_file_is_longer_than_a_person_reads() {
    assert_eq!(offenders(|_, text| text.lines().count() > FILE_LINES), [] as [PathBuf; 0]);
}

#[test]
fn core_and_the_simulator_touch_neither_the_world_nor_its_entropy() {
    let forbidden = ["std::net", "std::fs", "std::thread", "tokio::", "SystemTime", "Instant::"];
    // Real consensus is async; turmoil drives it there by the seed.
    let is_driven = |path: &Path| path.starts_with("runtime-sim/src/raft");
    let pure = |path: &Path| path.starts_with("core/src") || path.starts_with("runtime-sim/src");
    let offends = |path: &Path, text: &str| {
        // Unit tests stand at the end and may read files.
        let code = text.split("#[cfg(test)]").next().unwrap();
        let is_allowed =
            |word: &str| is_driven(path) && ["tokio::", "SystemTime", "Instant::"].contains(&word);
        pure(path) && forbidden.iter().any(|word| code.contains(word) && !is_allowed(word))
    };
    assert_eq!(offenders(offends), [] as [PathBuf; 0]);
}

#[test]
fn core_depends_on_few_crates() {
    let manifest = fs::read_to_string(root().join("core/Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let dependencies = manifest["dependencies"].as_table().unwrap();
    assert!(dependencies.len() <= CORE_DEPENDENCIES, "{dependencies:?}");
}

#[test]
fn the_architecture_fits_one_sitting_and_names_files_that_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(text.lines().count() <= ARCHITECTURE_LINES);
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let file = link.split('#').next().unwrap();
            assert!(root().join(file).exists(), "{document} links to {file}");
        }
    }
}
