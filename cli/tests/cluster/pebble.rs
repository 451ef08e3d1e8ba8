//! A certificate authority on a machine of its own: Let's Encrypt's test server, and a name server
//! that leads every name to one node. Ended when it is dropped.

use std::fs;
use std::process::Command;

use mill_acme::LocalAuthority;
use serde_json::json;

use super::machines::Machines;
use super::support::Running;

const PORT: u16 = 14_000;
const DNS_PORT: u16 = 8_053;

/// It runs for as long as this lives.
pub struct Pebble {
    /// URL of its directory.
    pub directory: String,
    /// What its own certificate is trusted by.
    pub root: String,
    _processes: [Running; 2],
}

impl Pebble {
    /// Starts it on a machine; it finds every name at another.
    pub fn start(machines: &Machines, machine: usize, every_name_at: usize) -> Pebble {
        let (here, there) = (machines.address(machine), machines.address(every_name_at));
        let own = LocalAuthority::found().unwrap();
        let (chain, key) = own.issue(std::slice::from_ref(&here), 7).unwrap();
        let files =
            ["chain.pem", "key.pem", "pebble.json"].map(|name| machines.path(machine, name));
        let [chain_file, key_file, config_file] = &files;
        let config = json!({ "pebble": {
            "listenAddress": format!("{here}:{PORT}"),
            "managementListenAddress": format!("{here}:15000"),
            "certificate": chain_file,
            "privateKey": key_file,
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        fs::write(chain_file, chain).unwrap();
        fs::write(key_file, key).unwrap();
        fs::write(config_file, config.to_string()).unwrap();
        let dns_at = format!("{here}:{DNS_PORT}");
        let mut dns = on(machines, machine, "pebble-challtestsrv");
        dns.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        dns.args(["-defaultIPv4", &there, "-dns01", &dns_at]);
        dns.args(["-management", &format!("{here}:8055")]);
        let mut authority = on(machines, machine, "pebble");
        authority.arg("-strict").arg("-config").arg(config_file).args(["-dnsserver", &dns_at]);
        authority.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "10");
        let pebble = Pebble {
            directory: format!("https://{here}:{PORT}/dir"),
            root: own.certificate_pem().to_owned(),
            _processes: [
                Running::start(dns, machines.path(machine, "dns.log")),
                Running::start(authority, machines.path(machine, "pebble.log")),
            ],
        };
        machines.eventually("the authority answers", |machines| {
            let mut ask = on(machines, machine, "curl");
            ask.args(["-ksf", &pebble.directory]).output().unwrap().status.success()
        });
        pebble
    }
}

fn on(machines: &Machines, machine: usize, program: &str) -> Command {
    let mut command = machines.command(machine);
    command.arg(program);
    command
}
