//! `mill.toml` as a person meets it: each file in `config/bad` with the problems it is told, each
//! in `config/good` with the project it means. A directory is one project of several files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;

use mill_core::config::model::Project;
use mill_core::config::{Parsed, Problem, Source, parse};

fn sources(path: &Path) -> Vec<Source> {
    let read = |path: &Path| Source {
        name: path.file_name().unwrap().to_str().unwrap().to_owned(),
        text: fs::read_to_string(path).unwrap(),
    };
    if path.is_file() {
        return vec![read(path)];
    }
    let mut files: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| read(path)).collect()
}

fn rendered(problems: &[Problem], sources: &[Source]) -> String {
    problems.iter().map(|p| p.render(sources)).collect::<Vec<_>>().join("\n")
}

fn snapshots(kind: &str, check: impl Fn(&Path)) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("config/{kind}/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        insta::glob!(&format!("config/{kind}/*"), |path| {
            if !path.ends_with("snapshots") {
                check(path);
            }
        });
    });
}

#[test]
fn each_bad_config_is_told_what_is_wrong_and_what_to_write() {
    snapshots("bad", |path| {
        let sources = sources(path);
        let problems = parse(&sources).expect_err("this config is bad");
        insta::assert_snapshot!(rendered(&problems, &sources));
    });
}

#[test]
fn each_good_config_means_what_it_says() {
    snapshots("good", |path| {
        let sources = sources(path);
        let Parsed { project, .. } =
            parse(&sources).unwrap_or_else(|p| panic!("{}", rendered(&p, &sources)));
        let json = serde_json::to_string_pretty(&project).unwrap();
        assert_eq!(serde_json::from_str::<Project>(&json).unwrap(), project);
        insta::assert_snapshot!(json);
    });
}
