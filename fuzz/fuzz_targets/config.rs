//! Any text as a project's file: it is a project or has problems, each at a place of the text, and
//! all of them can be shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mill_core::config::{Source, parse, supported};

fuzz_target!(|text: &str| {
    let sources = [Source { name: "mill.toml".to_owned(), text: text.to_owned() }];
    let problems = match parse(&sources) {
        Ok(parsed) => parsed.problems_for(&supported::unsupported(&parsed.project)),
        Err(problems) => {
            assert!(!problems.is_empty(), "it is refused without a reason");
            problems
        }
    };
    for problem in &problems {
        for at in problem.secondary.iter().map(|note| &note.at).chain([&problem.primary]) {
            assert!(text.get(at.range()).is_some(), "{problem:?}");
        }
        assert!(problem.render(&sources).ends_with('\n'), "{problem:?}");
    }
});
