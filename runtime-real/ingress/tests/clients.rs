//! Programs that others wrote, through the ingress: a WebSocket client and server, a gRPC client
//! and server (both in Python, `tests/clients/`), and curl.
//!
//! `tools/install.sh test` installs them. Where they are missing, a test says so and does nothing;
//! it fails instead where MILL_REQUIRE_ENGINE is set, as it is in CI.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::*;
use mill_ingress::{Backend, CertificateSet, HttpRoute, Ingress, Service, Table};
use rustls::pki_types::PrivateKeyDer;

/// Where `tools/install.sh` puts Python and its packages.
const PYTHON: &str = "/opt/mill-clients/bin/python";

/// Whether the program is there.
fn possible(program: &str) -> bool {
    if Path::new(program).exists() {
        return true;
    }
    let reason = format!("{program} is missing (`tools/install.sh test` installs it)");
    assert!(std::env::var_os("MILL_REQUIRE_ENGINE").is_none(), "{reason}");
    eprintln!("not run: {reason}");
    false
}

fn python(script: &str) -> Command {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut command = Command::new(PYTHON);
    command.arg(place).env_remove("PYTHONPATH").env("NO_PROXY", "*");
    command
}

/// A server in Python, ended when dropped.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    /// Starts it and waits until it says which port it has.
    fn new(script: &str) -> Program {
        let mut child = python(script).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse::<u16>().unwrap();
        Program { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program ends well; what it printed comes back.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A certificate for these names that the ingress shows, in a file that clients trust.
struct Trusted(PathBuf);

impl Trusted {
    fn new(ingress: &Ingress, names: &[&str], test: &str) -> Trusted {
        let all: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(all).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut set = CertificateSet::default();
        set.add(names, vec![made.cert.der().clone()], &key).unwrap();
        ingress.certificates().replace(set);
        let name = format!("mill-ingress-{test}-{}.pem", std::process::id());
        let place = std::env::temp_dir().join(name);
        std::fs::write(&place, made.cert.pem()).unwrap();
        Trusted(place)
    }
}

impl Drop for Trusted {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn port(address: Option<SocketAddr>) -> String {
    address.unwrap().port().to_string()
}

#[test]
fn a_websocket_client_and_server_talk_through_it_plain_and_encrypted() {
    if !possible(PYTHON) {
        return;
    }
    let server = Program::new("websocket_server.py");
    let ingress = start(&[]);
    let open = HttpRoute { websocket: true, path: "/chat".into(), ..route() };
    ingress.publish(table(vec![open, route()], vec![backend(server.address)])).unwrap();
    let trusted = Trusted::new(&ingress, &["shop.test"], "websocket");
    for (scheme, address) in [("ws", ingress.http_address()), ("wss", ingress.https_address())] {
        let mut client = python("websocket_client.py");
        run(client.args([scheme, &port(address)]).arg(&trusted.0));
    }
    wait_for("every tunnel ends", || ingress.metrics().open_connections == 0);
}

#[test]
fn a_grpc_client_and_server_talk_through_it_plain_and_encrypted() {
    if !possible(PYTHON) {
        return;
    }
    let server = Program::new("grpc_server.py");
    let ingress = start(&[]);
    let to = |host: &str, service: &str| HttpRoute {
        hold: Duration::ZERO,
        ..HttpRoute::new(host, "/", service)
    };
    let replica = Backend { h2c: true, ..backend(server.address) };
    let service = |name: &str, backends| Service { name: name.into(), backends };
    let services = vec![service("web", vec![replica]), service("none", Vec::new())];
    let http = vec![to("shop.test", "web"), to("empty.test", "none")];
    ingress.publish(Table { http, services, ..Table::default() }).unwrap();
    let trusted = Trusted::new(&ingress, &["shop.test", "empty.test"], "grpc");
    for plain in [port(ingress.http_address()).as_str(), "-"] {
        let mut client = python("grpc_client.py");
        run(client.args([plain, &port(ingress.https_address())]).arg(&trusted.0));
    }
}

/// Bytes that curl sends; for so many it asks first whether they are welcome (`Expect`).
const UPLOAD: usize = 2_000_000;

/// What curl says of an answer: protocol, status, bytes of the body.
const SAYS: &str = "%{http_version} %{http_code} %{size_download}";

#[test]
fn curl_speaks_every_protocol_with_it() {
    if !possible("/usr/bin/curl") {
        return;
    }
    let web = Server::new(|stream, head| {
        let body = match head.contains("transfer-encoding: chunked") {
            true => read_chunks(stream),
            false => read_body(stream, head).len(),
        };
        say(stream, &"x".repeat(body + 1));
        true
    });
    let ingress = start(&[&web]);
    let trusted = Trusted::new(&ingress, &["shop.test"], "curl");
    let upload = trusted.0.with_extension("upload");
    std::fs::write(&upload, vec![b'u'; UPLOAD]).unwrap();
    let plain = format!("http://shop.test:{}/", port(ingress.http_address()));
    let encrypted = format!("https://shop.test:{}/", port(ingress.https_address()));
    let curl = |options: &[&str], url: &str| {
        let mut curl = Command::new("/usr/bin/curl");
        curl.args(["-sS", "--noproxy", "*", "-o", "/dev/null", "-w", SAYS, "--max-time", "20"]);
        curl.arg("--cacert").arg(&trusted.0).args(["--connect-to", &here(url)]);
        run(curl.args(options).arg(url))
    };
    let file = upload.display().to_string();
    for (version, option, url) in [
        ("1", "--http1.0", &plain),
        ("1.1", "--http1.1", &plain),
        ("2", "--http2-prior-knowledge", &plain),
        ("1.1", "--http1.1", &encrypted),
        ("2", "--http2", &encrypted),
    ] {
        let check = |options: &[&str], bytes: usize| {
            let said = curl(&[options, &[option]].concat(), url);
            assert_eq!(said, format!("{version} 200 {bytes}"), "{options:?} {option} {url}");
        };
        check(&[], 1);
        check(&["-I"], 0);
        check(&["--data-binary", &format!("@{file}")], UPLOAD + 1);
        if option != "--http1.0" {
            check(&["-H", "Transfer-Encoding: chunked", "-T", &file], UPLOAD + 1);
        }
    }
    std::fs::remove_file(upload).unwrap();
}

/// This machine, whatever the host in the URL.
fn here(url: &str) -> String {
    let port = url.trim_end_matches('/').rsplit(':').next().unwrap();
    format!("shop.test:{port}:127.0.0.1:{port}")
}

/// Bytes of a body in chunks.
fn read_chunks(stream: &mut std::net::TcpStream) -> usize {
    let mut all = 0;
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            std::io::Read::read_exact(stream, &mut byte).unwrap();
            line.push(byte[0]);
        }
        let size = std::str::from_utf8(&line).unwrap().trim_end();
        let size = usize::from_str_radix(size, 16).unwrap();
        let mut data = vec![0; size + 2];
        std::io::Read::read_exact(stream, &mut data).unwrap();
        all += size;
        if size == 0 {
            return all;
        }
    }
}
