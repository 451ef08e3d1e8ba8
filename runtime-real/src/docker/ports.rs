//! Whether a port is free on this host, who has it if not, and how many speak to it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mill_core::container::{OpError, OpErrorKind};
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use super::errors::error;

/// Refuses a port that another program listens on. There is a moment between this and the
/// container's own bind; losing that race ends as a container that exits and says why.
pub(super) fn check(port: Option<u16>) -> Result<(), OpError> {
    let Some(port) = port else { return Ok(()) };
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let taken = [(AddressFamily::INET, v4), (AddressFamily::INET6, v6)].into_iter().any(
        |(family, address)| {
            try_bind(family, address).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
        },
    );
    if !taken {
        return Ok(());
    }
    let by = holder(port).map(|by| format!(" ({by})")).unwrap_or_default();
    let detail = format!(
        "port {port} of this node is taken by another program{by}; stop that program, or give the \
         service another port"
    );
    Err(error(OpErrorKind::PortTaken, detail))
}

/// Binds for a moment, as a server would that does not mind connections in TIME_WAIT.
fn try_bind(family: AddressFamily, address: SocketAddr) -> io::Result<()> {
    let probe = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&probe, true)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&probe, true)?;
    }
    bind(&probe, &address)?;
    Ok(())
}

/// The program that listens on a port, as /proc tells.
fn holder(port: u16) -> Option<String> {
    let inode = TABLES.iter().find_map(|table| listening_inode(table, port))?;
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    for process in processes {
        let pid = process.file_name().to_string_lossy().into_owned();
        // /proc/self and others are the same processes by other names.
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let mut links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        if links.any(|link| link.as_os_str() == wanted.as_str()) {
            let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
            return Some(format!("{}, process {pid}", name.trim()));
        }
    }
    None
}

fn listening_inode(table: &str, port: u16) -> Option<String> {
    let sockets = sockets(table, port).ok()?;
    sockets.into_iter().find(|socket| socket.state == LISTEN).map(|socket| socket.inode)
}

/// Connections to a port of this host that are open, or whose client has said all that it will and
/// waits for the answer; also those that nobody has accepted yet.
pub(super) fn in_flight(port: u16) -> Result<u32, OpError> {
    let mut count = 0;
    for table in TABLES {
        let sockets = match sockets(table, port) {
            Ok(sockets) => sockets,
            // A host without IPv6 has no such table.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && table != TABLES[0] => continue,
            Err(cause) => {
                let detail = format!("the connections of port {port} cannot be counted: {cause}");
                return Err(error(OpErrorKind::Other, detail));
            }
        };
        let open = |socket: &Socket| matches!(socket.state.as_str(), ESTABLISHED | CLOSE_WAIT);
        count += sockets.iter().filter(|socket| open(socket)).count();
    }
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The host's sockets, as the kernel tells of them.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
const ESTABLISHED: &str = "01";
const CLOSE_WAIT: &str = "08";
const LISTEN: &str = "0A";

struct Socket {
    state: String,
    inode: String,
}

/// Sockets whose own end is that port.
fn sockets(table: &str, port: u16) -> io::Result<Vec<Socket>> {
    let text = std::fs::read_to_string(table)?;
    let sockets = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?.rsplit_once(':')?.1;
        if u16::from_str_radix(local, 16).ok()? != port {
            return None;
        }
        let state = fields.nth(1)?.to_owned();
        Some(Socket { state, inode: fields.nth(5)?.to_owned() })
    });
    Ok(sockets.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_listens_on_is_refused_by_name() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let refused = check(Some(port)).unwrap_err();
        assert_eq!(refused.kind, OpErrorKind::PortTaken);
        let own = format!("process {}", std::process::id());
        assert!(refused.detail.contains(&own), "{}", refused.detail);
        drop(listener);
        check(Some(port)).unwrap();
    }

    #[test]
    fn connections_are_counted_until_both_ends_are_done() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(in_flight(port).unwrap(), 0, "one that listens is none");
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(in_flight(port).unwrap(), 1, "nobody has accepted it yet");
        let (server, _) = listener.accept().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(in_flight(port).unwrap(), 1, "the client waits for its answer");
        drop(server);
        assert_eq!(in_flight(port).unwrap(), 0);
    }
}
