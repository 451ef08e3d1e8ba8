//! Reading config files, and `mill validate`.

use std::fs;

use mill_core::config::{self, Parsed, Problem, Source, supported};

use super::{Outcome, done, pretty};
use crate::args::Files;
use crate::failure::Failure;
use crate::render::{counted, problems};

/// A config that was read, with its text for what there may yet be to say about it.
pub struct Loaded {
    pub parsed: Parsed,
    pub sources: Vec<Source>,
}

/// Reads and checks; every problem is printed.
pub fn load(files: &Files, json: bool) -> Result<Loaded, Failure> {
    let sources = read(files)?;
    match config::parse(&sources) {
        Ok(parsed) => Ok(Loaded { parsed, sources }),
        Err(found) => Err(refuse(&found, &sources, json)),
    }
}

impl Loaded {
    /// What this version does not act on yet is refused before anything is asked of a cluster.
    pub fn supported(self, json: bool) -> Result<Loaded, Failure> {
        let found = self.parsed.problems_for(&supported::unsupported(&self.parsed.project));
        if found.is_empty() { Ok(self) } else { Err(refuse(&found, &self.sources, json)) }
    }
}

/// `mill validate`.
pub fn validate(files: &Files, json: bool) -> Outcome {
    let loaded = load(files, json)?;
    let project = &loaded.parsed.project;
    let unsupported = loaded.parsed.problems_for(&supported::unsupported(project));
    if json {
        println!(
            "{}",
            pretty(
                &serde_json::json!({ "valid": true, "project": project, "unsupported": unsupported })
            )
        );
        return done();
    }
    let services = counted(project.services.len(), "service");
    let tasks = counted(project.tasks.len(), "task");
    println!("valid: project {}, {services}, {tasks}", project.name);
    if !unsupported.is_empty() {
        println!("\nnot supported yet by this version, a deploy will be refused:");
        problems::print(&unsupported, &loaded.sources);
    }
    done()
}

fn read(files: &Files) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for path in &files.file {
        let text = fs::read_to_string(path).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::NotFound => "; name the config with -f FILE",
                _ => "",
            };
            Failure::Failed(format!("cannot read {}: {error}{hint}", path.display()))
        })?;
        sources.push(Source { name: path.display().to_string(), text });
    }
    Ok(sources)
}

fn refuse(found: &[Problem], sources: &[Source], json: bool) -> Failure {
    if json {
        println!("{}", pretty(&serde_json::json!({ "valid": false, "problems": found })));
        return Failure::Said;
    }
    problems::print(found, sources);
    let count = counted(found.len(), "problem");
    Failure::Failed(format!("{count} in the config; nothing was changed"))
}
