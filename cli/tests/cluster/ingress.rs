//! Requests from outside: every node lets them in, with certificates that nobody had to think of.

use std::process::Command;

use super::machines::Machines;
use super::pebble::Pebble;
use super::support::{json, possible, said, text};

const NODES: usize = 3;
const HOST: &str = "shop.example.com";

fn config(version: u32, more: &str) -> String {
    format!(
        "
        [service.web]
        image = \"test/serve:{version}\"
        port = 8080
        replicas = 2
        health = {{ path = \"/\", interval = \"500ms\" }}
        update = {{ healthy_for = \"0s\" }}
        {more}
        "
    )
}

/// What curl says on a machine, or why it fails.
fn curl(machines: &Machines, machine: usize, args: &[&str]) -> String {
    let mut command = machines.command(machine);
    command.args(["curl", "-sS", "--max-time", "20"]).args(args);
    said(&command.output().unwrap())
}

/// The same under the host's name, at a node.
fn asks(machines: &Machines, node: usize, args: &[&str]) -> String {
    let address = machines.address(node);
    let plain = format!("{HOST}:80:{address}");
    let secure = format!("{HOST}:443:{address}");
    curl(machines, NODES + 1, &[&["--resolve", &plain, "--resolve", &secure], args].concat())
}

fn toml_text(text: &str) -> String {
    format!("\"\"\"\n{text}\"\"\"")
}

fn machines() -> Option<Machines> {
    possible(&["pebble", "pebble-challtestsrv", "openssl"])?;
    Machines::start(NODES + 1)
}

#[test]
fn a_certificate_is_ordered_and_every_node_serves_with_it() {
    let Some(mut machines) = machines() else { return };
    machines.load_server();
    machines.form(NODES);
    // The authority sees one node, which is not the one that leads.
    let pebble = Pebble::start(&machines, NODES + 1, 3);
    let route = format!(
        "
        [[service.web.route]]
        host = \"{HOST}\"
        tls = true
        [cluster]
        acme_email = \"ops@example.com\"
        acme_directory = \"{}\"
        acme_root = {}
        ",
        pebble.directory,
        toml_text(&pebble.root),
    );
    machines.deploy(1, &config(1, &route));
    machines.eventually("there is a certificate", |machines| {
        said(&machines.mill(1, &["cert", "ls"])).contains("there")
    });
    let routes = said(&machines.mill(2, &["route", "ls"]));
    assert!(routes.contains("https://shop.example.com/"), "{routes}");
    for node in 1..=NODES {
        // Its issuer is trusted by nobody here.
        let answer = asks(&machines, node, &["-k", &format!("https://{HOST}/")]);
        assert_eq!(answer, "version=1\n", "node {node}");
        let told = asks(&machines, node, &["-kv", &format!("https://{HOST}/")]);
        assert!(told.contains("issuer: CN=Pebble Intermediate CA"), "node {node}: {told}");
        let moved = asks(&machines, node, &["-i", &format!("http://{HOST}/a?b")]);
        assert!(moved.contains("location: https://shop.example.com/a?b"), "node {node}: {moved}");
    }
    let mut client = machines.command(NODES + 1);
    let at = format!("{}:443", machines.address(2));
    client.args(["openssl", "s_client", "-connect", &at, "-servername", HOST, "-alpn", "h2"]);
    let told = text(client.stdin(std::process::Stdio::null()).output().unwrap());
    assert!(told.contains("ALPN protocol: h2") && told.contains("TLSv1.3"), "{told}");
    // What a daemon keeps of it on its disk is sealed.
    let mut search = Command::new("grep");
    search.args(["-rlE", "BEGIN (EC )?PRIVATE KEY"]).arg(machines.path(1, "mill"));
    let files = String::from_utf8_lossy(&search.output().unwrap().stdout).into_owned();
    let known = |file: &str| file.ends_with("pki/node.key") || file.ends_with("pki/ca.key");
    assert!(files.lines().all(known), "{files}");
    // Renewed when asked to; a restarted daemon serves with what it has.
    let begins = |machines: &Machines| {
        let told = json(&machines.mill(1, &["cert", "ls", "--json"]));
        told["certificates"][0]["not_before"].as_u64().unwrap()
    };
    let before = begins(&machines);
    machines.done(1, &["cert", "renew", HOST]);
    machines.eventually("there is another certificate", |machines| begins(machines) > before);
    machines.kill_daemon(2);
    machines.init_on(2);
    machines.eventually("the node serves again", |machines| {
        asks(machines, 2, &["-k", &format!("https://{HOST}/")]) == "version=1\n"
    });
}

#[test]
fn a_certificate_of_ones_own_is_shown_and_a_refused_order_says_why() {
    let Some(mut machines) = machines() else { return };
    machines.load_server();
    machines.form(NODES);
    // Every name leads to a machine that serves nothing.
    let pebble = Pebble::start(&machines, NODES + 1, NODES + 1);
    let route = format!(
        "
        [[service.web.route]]
        host = \"{HOST}\"
        tls = true
        [[service.web.route]]
        listen = 5432
        [cluster]
        acme_directory = \"{}\"
        acme_root = {}
        ",
        pebble.directory,
        toml_text(&pebble.root),
    );
    machines.deploy(1, &config(1, &route));
    machines.eventually("the order has failed", |machines| {
        let told = said(&machines.mill(1, &["cert", "ls"]));
        told.contains("failed") && told.contains("onnection refused")
    });
    let own = mill_acme::LocalAuthority::found().unwrap();
    let (chain, key) = own.issue(&[HOST.to_owned()], 30).unwrap();
    let [cert, key_file, root] =
        ["own.pem", "own.key", "root.pem"].map(|name| machines.path(1, name));
    std::fs::write(&cert, chain).unwrap();
    std::fs::write(&key_file, key).unwrap();
    std::fs::write(&root, own.certificate_pem()).unwrap();
    let (cert, key_file) = (cert.display().to_string(), key_file.display().to_string());
    let swapped = said(&machines.mill(1, &["cert", "import", "--cert", &key_file, "--key", &cert]));
    assert!(swapped.contains("cannot be used"), "{swapped}");
    machines.done(1, &["cert", "import", "--cert", &cert, "--key", &key_file]);
    let root = root.display().to_string();
    for node in 1..=NODES {
        let answer = asks(&machines, node, &["--cacert", &root, &format!("https://{HOST}/")]);
        assert_eq!(answer, "version=1\n", "node {node}");
        // A TCP route leads to the same replicas, whatever is spoken there.
        let tcp = format!("http://{}:5432/", machines.address(node));
        assert_eq!(curl(&machines, NODES + 1, &[&tcp]), "version=1\n", "node {node}");
    }
    let unknown = curl(&machines, NODES + 1, &["-i", &format!("http://{}/", machines.address(1))]);
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
}
