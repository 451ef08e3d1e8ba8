//! Whether a port is free on this host, and who has it if not.

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
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables.iter().find_map(|table| listening_inode(table, port))?;
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
    const LISTEN: &str = "0A";
    let text = std::fs::read_to_string(table).ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit_once(':')?.1;
        let here = u16::from_str_radix(local, 16).ok()? == port && *fields.get(3)? == LISTEN;
        here.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
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
}
