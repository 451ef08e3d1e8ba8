//! What a node needs of its machine, each checked and told with what to do about it.
//!
//! It looks and changes nothing. `mill doctor` prints it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use mill_core::api::view::{Age, RoutesView};
use mill_core::cluster::node::PortPool;
use mill_core::name::NodeId;
use mill_core::units::{Bytes, Millis};
use serde::Serialize;

use crate::clock;
use crate::docker::{Engine, EngineOptions};
use crate::mesh::{MeshReport, PeerReport, can_mesh};
use crate::traffic::{NamesReport, Serving};

/// Less space than this, and images and logs soon fill the disk.
const SPACE_LOW: Bytes = Bytes(2 << 30);
/// A wall clock before this was never set: 2026-01-01.
const CLOCK_EARLIEST_MS: u64 = 1_767_225_600_000;
/// Tables that are older are not those of a cluster that is well: nodes hear from the leader all
/// the time.
const TABLES_OLD: Millis = Millis::secs(15);
/// Ports of the pool that are tried, evenly spread.
const PORTS_TRIED: u16 = 20;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How it is.
    pub grade: Grade,
    /// What was seen.
    pub seen: String,
    /// What to do, unless it is fine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Fine,
    /// It works, and could be better.
    Warning,
    /// Mill cannot work like this.
    Broken,
}

/// Looks at everything.
pub async fn examine(engine: Option<String>, data: &Path, ports: PortPool) -> Vec<Finding> {
    let mut found = vec![privileges()];
    found.extend(engine_findings(engine).await);
    found.push(space(data));
    found.push(free_ports(ports));
    found.push(wall_clock());
    found.push(cgroups());
    found.push(kernel_feature(
        "tun",
        "/dev/net/tun",
        "load the module `tun`; the mesh needs it where the kernel has no WireGuard",
    ));
    found.push(kernel_feature(
        "overlayfs",
        "/proc/filesystems:overlay",
        "load the module `overlay`; the engine stores images slowly without it",
    ));
    found
}

/// Looks at what a daemon needs to find free, where none runs.
pub fn before_a_daemon() -> Vec<Finding> {
    let mesh = match can_mesh() {
        Ok(()) => fine("mesh", "this machine can be part of one"),
        Err(why) => bad("mesh", Grade::Warning, why, "nodes of a cluster speak through it"),
    };
    vec![mesh, web_ports()]
}

/// What a daemon says of its part of the mesh.
pub fn of_mesh(report: &MeshReport) -> Vec<Finding> {
    let remedy = "the other side may show more: run `mill doctor` there, too";
    let mut found: Vec<Finding> = report
        .problems
        .iter()
        .map(|problem| bad("mesh", Grade::Warning, problem.clone(), remedy))
        .collect();
    if let (Some(interface), true) = (&report.interface, found.is_empty()) {
        let met = |peer: &&PeerReport| peer.handshake_seconds.is_some_and(|age| age < 180);
        let met = interface.peers.iter().filter(met).count();
        let only = if report.only { ", and nodes speak through nothing else" } else { "" };
        found.push(fine(
            "mesh",
            format!(
                "{} ({}) at {}: {met} of {} other nodes met{only}",
                interface.name,
                interface.kind,
                interface.address,
                interface.peers.len()
            ),
        ));
    }
    if found.is_empty() {
        let seen = "this node does not know its address in the mesh yet";
        let remedy = "wait until it has the cluster's state; `mill status` says whether it has";
        found.push(bad("mesh", Grade::Warning, seen, remedy));
    }
    found
}

/// What a daemon says of its name server.
pub fn of_names(report: &NamesReport) -> Vec<Finding> {
    let serving = match report {
        NamesReport::Starting => {
            let seen = "the name server of this node is not there yet";
            let remedy = "containers wait for it; look again in a moment";
            return vec![bad("names", Grade::Warning, seen, remedy)];
        }
        NamesReport::Missing(why) => {
            let remedy = "the daemon needs root, with CAP_SYS_ADMIN and CAP_NET_ADMIN, and must be \
                          the only one of its cluster here; until then containers call no services \
                          by name, and resolve others as the host does";
            return vec![bad("names", Grade::Warning, why.clone(), remedy)];
        }
        NamesReport::Told => {
            return vec![fine(
                "names",
                "each container is told the names of services as it is made",
            )];
        }
        NamesReport::Serving(serving) => serving,
    };
    let Serving { resolver, asked, others, .. } = serving;
    let own = match &serving.own_trouble {
        None => {
            let kinds = if serving.has_ipv6 { "A and AAAA" } else { "A only: no IPv6 here" };
            fine("names", format!("{resolver} answers for the cluster ({kinds})"))
        }
        Some(trouble) => bad(
            "names",
            Grade::Warning,
            format!("the name server at {resolver} does not answer for `{asked}`: {trouble}"),
            "see that no firewall drops what goes to that address, and the daemon's log; \
             restarting the daemon makes the name server anew and leaves containers alone",
        ),
    };
    vec![own, of_resolvers(others, serving.others_trouble.as_deref())]
}

fn of_resolvers(others: &[IpAddr], trouble: Option<&str>) -> Finding {
    let list: Vec<String> = others.iter().map(IpAddr::to_string).collect();
    let list = list.join(", ");
    match (others.is_empty(), trouble) {
        (true, _) => bad(
            "resolvers",
            Grade::Warning,
            "this host knows no resolver: containers find names of the cluster alone",
            "name one in /etc/resolv.conf (`nameserver ADDRESS`), and restart the daemon",
        ),
        (false, None) => fine("resolvers", format!("the host's resolvers answer ({list})")),
        (false, Some(trouble)) => bad(
            "resolvers",
            Grade::Warning,
            format!("the host's resolvers ({list}), asked for the root of all names: {trouble}"),
            "containers may find names of the cluster alone: check that they are reached from \
             here and resolve, or name others in /etc/resolv.conf and restart the daemon",
        ),
    }
}

/// How old what a node answers by is. Whether there is a leader it cannot tell: it knows whom it
/// heard last.
pub fn of_age(age: Age) -> Finding {
    let subject = "tables";
    let seen = match age {
        Age::AtMost(age) if age <= TABLES_OLD => {
            return fine(subject, "names and addresses are those of now");
        }
        Age::AtMost(age) => {
            // To the second: more is of no use.
            let age = Millis::secs(age.0 / 1000);
            format!("names and addresses are those of {age} ago: no leader was heard since")
        }
        Age::Unknown => "nobody knows how old names and addresses are here: no leader was heard \
                         since this node started"
            .to_owned(),
    };
    let remedy = "a leader needs more than half of the primaries, and this node must reach it: look \
                  here and on another node with `mill doctor` and `mill node ls --stale`";
    bad(subject, Grade::Warning, seen, remedy)
}

/// What a cluster says of requests from outside.
pub fn of_routes(routes: &RoutesView) -> Vec<Finding> {
    let remedy = "free the port, or name others with --http and --https";
    let troubled = routes
        .unrouted
        .iter()
        .map(|(node, why)| bad("routes", Grade::Warning, format!("node {node}: {why}"), remedy));
    let mut found: Vec<Finding> = troubled.collect();
    if found.is_empty() {
        found
            .push(fine("routes", format!("every node takes requests for {}", routes.routes.len())));
    }
    found
}

fn web_ports() -> Finding {
    let taken = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_err();
    let taken: Vec<String> =
        [80, 443].iter().filter(|port| taken(port)).map(u16::to_string).collect();
    match taken.is_empty() {
        true => fine("web ports", "80 and 443 are free"),
        false => bad(
            "web ports",
            Grade::Warning,
            format!("another program listens on {}, or this one may not", taken.join(" and ")),
            "stop it if services are to be reached from outside, or name others with --http and \
             --https",
        ),
    }
}

/// What is wrong with the container engine, if it does not answer.
pub async fn engine_is_missing(engine: Option<String>) -> Option<Finding> {
    let found = engine_findings(engine).await;
    found.into_iter().find(|finding| finding.grade == Grade::Broken)
}

fn fine(subject: &'static str, seen: impl Into<String>) -> Finding {
    Finding { subject, grade: Grade::Fine, seen: seen.into(), remedy: None }
}

fn bad(
    subject: &'static str,
    grade: Grade,
    seen: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding { subject, grade, seen: seen.into(), remedy: Some(remedy.into()) }
}

fn privileges() -> Finding {
    match rustix::process::geteuid().is_root() {
        true => fine("privileges", "running as root"),
        false => bad(
            "privileges",
            Grade::Warning,
            "not running as root",
            "run the daemon as root, or add its user to the group of the engine's socket",
        ),
    }
}

async fn engine_findings(host: Option<String>) -> Vec<Finding> {
    let options =
        EngineOptions { host, cluster: String::new(), node: NodeId(0), config: None, pulled: None };
    let info = match Engine::connect(options) {
        Ok(engine) => engine.info().await,
        Err(error) => Err(error),
    };
    let info = match info {
        Ok(info) => info,
        Err(error) => {
            let remedy = "install and start it (Debian: apt-get install docker.io), or name its \
                          socket with --engine";
            // The detail ends by sending people here.
            let seen = error.detail.split("; is it running?").next().unwrap_or_default();
            return vec![bad("container engine", Grade::Broken, seen, remedy)];
        }
    };
    let root = Path::new(&info.data_root);
    let mut found = vec![fine("container engine", format!("version {} answers", info.version))];
    found.push(match info.live_restore {
        true => fine("live-restore", "containers outlive a restart of the engine"),
        false => bad(
            "live-restore",
            Grade::Warning,
            "the engine kills all containers when it restarts",
            "put {\"live-restore\": true} into /etc/docker/daemon.json and reload the engine",
        ),
    });
    found.push(Finding { subject: "disk of the engine", ..space(root) });
    found
}

fn space(path: &Path) -> Finding {
    let nearest: PathBuf =
        path.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/")).to_path_buf();
    let place = nearest.display();
    match rustix::fs::statvfs(&nearest) {
        Ok(stat) => {
            let free = Bytes(stat.f_bavail.saturating_mul(stat.f_frsize));
            match free < SPACE_LOW {
                false => fine("disk", format!("{free} free at {place}")),
                true => bad(
                    "disk",
                    Grade::Warning,
                    format!("only {free} free at {place}"),
                    format!("free some space; {SPACE_LOW} is little already"),
                ),
            }
        }
        Err(error) => bad(
            "disk",
            Grade::Broken,
            format!("{place} cannot be looked at: {error}"),
            "check that the disk is mounted",
        ),
    }
}

/// Tries a few ports of the pool, evenly spread.
fn free_ports(pool: PortPool) -> Finding {
    let count = pool.last - pool.first + 1;
    let step = usize::from((count / PORTS_TRIED).max(1));
    let tried = (pool.first..=pool.last).step_by(step);
    let taken: Vec<String> = tried
        .filter(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_err())
        .map(|port| port.to_string())
        .collect();
    let range = format!("{}-{}", pool.first, pool.last);
    match taken.is_empty() {
        true => fine("ports", format!("those tried of {range} are free")),
        false => bad(
            "ports",
            Grade::Warning,
            format!("other programs listen on {} of the pool {range}", taken.join(", ")),
            "Mill steps over taken ports; name another pool with --ports if they are many",
        ),
    }
}

fn wall_clock() -> Finding {
    match clock::wall().0 >= CLOCK_EARLIEST_MS {
        true => fine("clock", "the wall clock is set"),
        false => bad(
            "clock",
            Grade::Broken,
            "the wall clock says it is before 2026",
            "set it, and keep it right with chrony or systemd-timesyncd: certificates depend on it",
        ),
    }
}

fn cgroups() -> Finding {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let legacy = Path::new("/sys/fs/cgroup/memory").exists();
    match (unified, legacy) {
        (true, _) => fine("cgroups", "version 2"),
        (false, true) => fine("cgroups", "version 1, which limits cpu and memory just as well"),
        (false, false) => bad(
            "cgroups",
            Grade::Broken,
            "no memory controller is mounted",
            "mount cgroup2 at /sys/fs/cgroup, or boot with cgroup_enable=memory",
        ),
    }
}

/// A path that must exist, or `FILE:WORD` for a word that a file must contain.
fn kernel_feature(subject: &'static str, sign: &str, remedy: &str) -> Finding {
    let present = match sign.split_once(':') {
        None => Path::new(sign).exists(),
        Some((file, word)) => fs::read_to_string(file)
            .is_ok_and(|text| text.split_whitespace().any(|found| found == word)),
    };
    match present {
        true => fine(subject, "the kernel has it"),
        false => bad(subject, Grade::Warning, "the kernel does not show it", remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving() -> Serving {
        Serving {
            resolver: IpAddr::from([10, 213, 255, 254]),
            has_ipv6: true,
            asked: "a.node.mill".to_owned(),
            own_trouble: None,
            others: vec![IpAddr::from([192, 0, 2, 53])],
            others_trouble: None,
        }
    }

    /// Grades, and all that is said.
    fn told(found: &[Finding]) -> (Vec<Grade>, String) {
        let said = found.iter().map(|finding| {
            let remedy = finding.remedy.clone().unwrap_or_default();
            format!("{}: {}; {remedy}", finding.subject, finding.seen)
        });
        (found.iter().map(|finding| finding.grade).collect(), said.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn names_that_are_answered_are_fine() {
        let (grades, said) = told(&of_names(&NamesReport::Serving(serving())));
        assert_eq!(grades, [Grade::Fine, Grade::Fine], "{said}");
        assert!(said.contains("10.213.255.254") && said.contains("192.0.2.53"), "{said}");
    }

    #[test]
    fn each_trouble_with_names_is_told_with_what_to_do() {
        let trouble = || Some("nothing came".to_owned());
        let own = Serving { own_trouble: trouble(), ..serving() };
        let none = Serving { others: Vec::new(), ..serving() };
        let silent = Serving { others_trouble: trouble(), ..serving() };
        let missing = "cannot make a network namespace (EPERM): run the daemon as root";
        for (report, telling) in [
            (NamesReport::Serving(own), "does not answer for `a.node.mill`: nothing came"),
            (NamesReport::Serving(none), "nameserver ADDRESS"),
            (NamesReport::Serving(silent), "the host's resolvers (192.0.2.53), asked for"),
            (NamesReport::Missing(missing.to_owned()), "run the daemon as root"),
            (NamesReport::Starting, "look again in a moment"),
        ] {
            let found = of_names(&report);
            let (grades, said) = told(&found);
            assert!(grades.contains(&Grade::Warning) && said.contains(telling), "{said}");
            let wrong = found.iter().filter(|finding| finding.grade != Grade::Fine);
            assert!(wrong.into_iter().all(|finding| finding.remedy.is_some()), "{said}");
        }
    }

    #[test]
    fn tables_are_old_when_no_leader_is_heard() {
        assert_eq!(of_age(Age::AtMost(Millis::secs(1))).grade, Grade::Fine);
        let old = of_age(Age::AtMost(Millis(90_400)));
        assert!(old.seen.contains("1m30s ago: no leader was heard"), "{}", old.seen);
        for found in [old, of_age(Age::Unknown)] {
            assert!(found.grade == Grade::Warning && found.remedy.is_some());
        }
    }
}
