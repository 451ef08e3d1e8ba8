//! What `mill` says and how it exits, where no cluster is needed (product.md, section 4).

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use self::support::{Host, json, said};

#[test]
fn the_doctor_names_what_is_wrong_and_what_to_do() {
    let host = Host::bare();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let pool = format!("{port}-{port}");
    let data = host.path("data");
    let args = ["doctor", "--ports", &pool, "--data", data.to_str().unwrap()];
    let looked = host.mill(&args);
    assert_eq!(looked.status.code(), Some(1), "{}", said(&looked));
    for telling in ["FAIL container engine", "apt-get install docker.io", "warn ports", "--ports"] {
        assert!(said(&looked).contains(telling), "{telling}: {}", said(&looked));
    }
    let found = json(&host.mill(&[&args[..], &["--json"]].concat()));
    let broken = found.as_array().unwrap().iter().filter(|finding| finding["grade"] != "fine");
    assert!(broken.clone().count() >= 2 && broken.into_iter().all(|f| f["remedy"].is_string()));
}

const TOKEN: &str = "mill1.\
    abababababababababababababababababababababababababababababababab.\
    abababababababababababababababababababababababababababababababab";

#[test]
fn wrong_usage_exits_with_2_and_shows_how() {
    let host = Host::bare();
    for args in [
        &["frobnicate"][..],
        &[],
        &["scale", "web"],
        &["scale", "web", "many"],
        &["scale", "Web!", "2"],
        &["sim"],
        &["deploy", "--nope"],
        &["init", "--foreground", "--ports", "9-1"],
        &["init", "--foreground", "--advertise", "here"],
        &["join", "192.0.2.10", "--token", "mill1.short", "--foreground"],
        // A whole token, and an address that others could only take for their own.
        &["join", "192.0.2.10", "--token", TOKEN, "--foreground"],
        &["join", "192.0.2.10", "--token", TOKEN, "--role", "voter", "--foreground"],
        &["node", "label", "a", "nothing"],
        &["recover", "--data", "/nowhere", "--force"],
        &["dev", "--nodes", "3"],
        &["init", "--foreground", "--name", "A b"],
        &["sim", "--seed", "1", "--nodes", "0"],
        &["sim", "--seed", "1", "--nodes", "21"],
        &["sim", "--seeds", "0..2", "--trace"],
        &["logs", "-n", "100001"],
        &["exec", "web"],
        &["exec", "-t", "web", "--", "sh"],
        &["forward", "web"],
        &["forward", "web", "0"],
        &["forward", "web", "80:http"],
        &["status", "--address", "localhost:7400"],
        &["status", "--address", "https://localhost:7400"],
    ] {
        let output = host.mill(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let host = Host::bare();
    let help = said(&host.mill(&["--help"]));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 10, "{help}");
    for name in names {
        let text = said(&host.mill(&[name, "--help"]));
        assert!(text.contains("Example"), "mill {name} --help: {text}");
        assert!(text.contains("--json"), "mill {name} --help: {text}");
    }
}

#[test]
fn without_a_daemon_the_exit_code_is_3_and_the_address_is_named() {
    let host = Host::bare();
    host.config("[service.web]\nimage = \"test/web:1\"\n");
    for args in [
        &["status"][..],
        &["ps"],
        &["why", "web"],
        &["logs"],
        &["restart", "web"],
        &["scale", "web", "2"],
        &["exec", "web", "--", "sh"],
        &["forward", "web", "0:80"],
        &["plan"],
        &["deploy", "--yes"],
        &["status", "--json"],
    ] {
        let output = host.mill(args);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {text}");
        assert!(text.contains("no daemon answers at") && text.contains("mill.sock"), "{text}");
        assert!(text.contains("mill doctor"), "{text}");
    }
}

#[test]
fn a_wrong_config_is_refused_with_every_problem_at_its_place() {
    let host = Host::bare();
    host.config("[service.web]\nimage = \"test/web:1\"\nreplica = 3\nport = 99999\n");
    for args in [&["validate"][..], &["plan"], &["deploy", "--yes"], &["dev"]] {
        let output = host.mill(args);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        for telling in ["mill.toml:3:1", "did you mean `replicas`", "mill.toml:4:", "2 problems"] {
            assert!(text.contains(telling), "{args:?}: {telling}: {text}");
        }
    }
    let output = host.mill(&["validate", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["problems"].as_array().unwrap().len(), 2);
    let missing = host.mill(&["validate", "-f", "nosuch.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(said(&missing).contains("name the config with -f FILE"), "{}", said(&missing));
}

#[test]
fn a_valid_config_is_counted_in_words() {
    let host = Host::bare();
    host.config(
        "[service.web]\nimage = \"a:1\"\n[service.api]\nimage = \"a:1\"\n\
         [task.migrate]\nimage = \"a:1\"\ntimeout = \"1m\"\n",
    );
    let text = said(&host.mill(&["validate"]));
    assert!(text.starts_with("valid: project main, 2 services, 1 task\n"), "{text}");
}

#[test]
fn a_reader_that_goes_away_ends_a_command_without_a_word() {
    let host = Host::bare();
    for args in [&["schema"][..], &["completions", "bash"], &["version"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mill"));
        command.args(args).current_dir(host.path(""));
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((said(&output).as_str(), output.status.code()), ("", Some(141)), "{args:?}");
    }
}

#[test]
fn the_examples_are_valid() {
    let host = Host::bare();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut seen = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let config = entry.unwrap().path().join("mill.toml");
        let output = host.mill(&["validate", "-f", config.to_str().unwrap()]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(!said(&output).contains("not supported yet"), "{}", said(&output));
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn dev_without_a_container_engine_says_how_to_get_one() {
    let host = Host::bare();
    host.config("[service.web]\nimage = \"test/web:1\"\n");
    let output = host.mill(&["dev"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for telling in ["the container engine does not answer", "no-engine.sock", "install and start"] {
        assert!(text.contains(telling), "{telling}: {text}");
    }
}
