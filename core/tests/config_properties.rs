//! What holds for every text that could be handed to the config parser, valid or not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;

use mill_core::config::{Problem, Source, parse, supported};
use proptest::prelude::*;
use proptest::sample::Index;

/// Every config that the snapshots know, good and bad.
fn samples() -> Vec<String> {
    let mut samples = Vec::new();
    for kind in ["good", "bad"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        samples.extend(files.iter().map(|path| fs::read_to_string(path).unwrap()));
    }
    assert!(samples.len() > 50, "the samples moved");
    samples
}

/// Parses, shows all there is to show, and checks that each place is one of the text.
fn check(texts: &[&str]) -> Vec<Problem> {
    let source = |(index, text): (usize, &&str)| Source {
        name: format!("{index}.toml"),
        text: (*text).to_owned(),
    };
    let sources: Vec<Source> = texts.iter().enumerate().map(source).collect();
    let problems = match parse(&sources) {
        Ok(parsed) => parsed.problems_for(&supported::unsupported(&parsed.project)),
        Err(problems) => {
            assert!(!problems.is_empty());
            problems
        }
    };
    for problem in &problems {
        for at in problem.secondary.iter().map(|note| &note.at).chain([&problem.primary]) {
            let text = &sources[at.source].text;
            assert!(text.get(at.range()).is_some(), "{problem:?}");
            assert_eq!(at.line, text[..at.start].matches('\n').count() + 1, "{problem:?}");
        }
        assert!(problem.render(&sources).ends_with('\n'), "{problem:?}");
    }
    problems
}

/// What people type by mistake, or what parsers stumble over.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        "[\\[\\]{}=.,\"'#$\\\\\n\r\t 0-9a-z\u{e9}\u{65e5}\u{1f600}-]{0,6}",
        prop::sample::select(vec![
            "[service.web]\n",
            "[[service.web.route]]\n",
            "\n[task.web.stop]\n",
            "\"\"\"",
            "'''",
            "${",
            "$${",
            "}",
            "${secret(a)}",
            "${service.web.address}",
            "{ a = 1 }",
            "[[1]]",
            "-1",
            "1e400",
            "99999999999999999999",
            "0x7fff",
            "nan",
            "1979-05-27",
            "true",
            "\"each-node\"",
            "\"1GiB\"",
            "\"999999999999999999TiB\"",
            "\"5s\"",
            "service",
            "image",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        check(&[&text]);
    }

    #[test]
    fn any_mutilated_config_is_read_or_refused(
        sample in any::<Index>(),
        cuts in prop::collection::vec((any::<Index>(), any::<Index>(), fragment()), 1..4),
    ) {
        let samples = samples();
        let mut text = sample.get(&samples).clone();
        for (at, length, fragment) in cuts {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let most = (text.len() - start).min(12) + 1;
            let end = text.ceil_char_boundary(start + length.index(most));
            text.replace_range(start..end, &fragment);
        }
        check(&[&text]);
    }

    #[test]
    fn any_two_configs_can_be_given_together(first in any::<Index>(), second in any::<Index>()) {
        let samples = samples();
        let (first, second) = (first.get(&samples), second.get(&samples));
        check(&[first.as_str(), second.as_str()]);
    }

    #[test]
    fn the_same_text_has_the_same_problems(sample in any::<Index>()) {
        let samples = samples();
        let text = sample.get(&samples);
        prop_assert_eq!(check(&[text]), check(&[text]));
    }
}
