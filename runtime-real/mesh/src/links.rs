//! Interfaces, addresses and routes, through rtnetlink.
//!
//! What is ours carries [`ALIAS`], so that after a crash it can be told from an interface that
//! somebody else made. Tested in namespaces (`tests/`).

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{Ask, request};
use crate::prefix::Prefix;

/// The alias (`ip link show`) of an interface that this crate made.
pub(crate) const ALIAS: &str = "mill mesh";

/// An interface that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) is_up: bool,
    pub(crate) alias: Option<String>,
    pub(crate) kind: Option<InfoKind>,
}

/// The interface of this name, if there is one.
pub(crate) fn find(name: &str) -> io::Result<Option<Link>> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfName(name.to_owned()));
    one_link(question)
}

/// The interface with this index, if there is one.
pub(crate) fn at(index: u32) -> io::Result<Option<Link>> {
    let mut question = LinkMessage::default();
    question.header.index = index;
    one_link(question)
}

fn one_link(question: LinkMessage) -> io::Result<Option<Link>> {
    let answers = match request(RouteNetlinkMessage::GetLink(question), Ask::One(0), NETLINK_ROUTE)
    {
        Ok(answers) => answers,
        Err(error) if error.raw_os_error() == Some(ENODEV) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(link(message)),
        _ => None,
    }))
}

const ENODEV: i32 = 19;

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        is_up: message.header.flags.contains(LinkFlags::Up),
        alias: None,
        kind: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

/// Makes an interface of the kernel's own WireGuard.
pub(crate) fn create_wireguard(name: &str) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]));
    act(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Marks the interface as ours.
pub(crate) fn mark(index: u32) -> io::Result<()> {
    set(index, LinkAttribute::IfAlias(ALIAS.to_owned()))
}

/// Sets the largest packet that goes in, in bytes.
pub(crate) fn set_mtu(index: u32, mtu: u32) -> io::Result<()> {
    set(index, LinkAttribute::Mtu(mtu))
}

fn set(index: u32, attribute: LinkAttribute) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(attribute);
    act(RouteNetlinkMessage::SetLink(message), 0)
}

/// Brings the interface up, which makes routes to the networks of its addresses.
pub(crate) fn bring_up(index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    act(RouteNetlinkMessage::SetLink(message), 0)
}

/// Removes the interface, with its addresses and routes.
pub(crate) fn delete(index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    act(RouteNetlinkMessage::DelLink(message), 0)
}

/// Gives the interface an address, which the kernel need not check for duplicates (a tunnel has
/// none, and the address would be unusable meanwhile).
pub(crate) fn add_address(index: u32, prefix: &Prefix) -> io::Result<()> {
    let mut message = address(index, prefix);
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    act(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Takes an address away.
pub(crate) fn remove_address(index: u32, prefix: &Prefix) -> io::Result<()> {
    act(RouteNetlinkMessage::DelAddress(address(index, prefix)), 0)
}

fn address(index: u32, prefix: &Prefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = family(prefix.address());
    message.header.prefix_len = prefix.length();
    message.attributes.push(AddressAttribute::Local(prefix.address()));
    message.attributes.push(AddressAttribute::Address(prefix.address()));
    message
}

/// The addresses of an interface but for IPv6's link-local ones, which the kernel makes.
pub(crate) fn addresses(index: u32) -> io::Result<Vec<Prefix>> {
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = request(question, Ask::All, NETLINK_ROUTE)?;
    let own = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == index => Some(message),
        _ => None,
    });
    let prefixes = own.filter_map(|message| {
        let length = message.header.prefix_len;
        let address = message.attributes.into_iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(address),
            _ => None,
        })?;
        Prefix::new(address, length).ok()
    });
    Ok(prefixes.filter(|prefix| !is_link_local(prefix.address())).collect())
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// A route of the main table that sends packets out of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: Prefix,
    pub(crate) interface: u32,
}

/// All routes of the main table that send packets out, but for the default ones.
pub(crate) fn routes(ipv4: bool) -> io::Result<Vec<Route>> {
    let mut question = RouteMessage::default();
    question.header.address_family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let answers = request(RouteNetlinkMessage::GetRoute(question), Ask::All, NETLINK_ROUTE)?;
    Ok(answers.into_iter().filter_map(main_route).collect())
}

fn main_route(answer: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let (mut to, mut interface) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                to = Some(IpAddr::V4(*address));
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                to = Some(IpAddr::V6(*address));
            }
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let to = Prefix::new(to?, header.destination_prefix_length).ok()?;
    Some(Route { to, interface: interface? })
}

/// Which interface a packet to this address leaves through now, with all rules and tables.
///
/// # Errors
/// The kernel's, where it would refuse to send: `ENETUNREACH`, `EHOSTUNREACH`, ...
pub(crate) fn way_to(address: IpAddr) -> io::Result<u32> {
    let mut question = RouteMessage::default();
    question.header.address_family = family(address);
    question.header.destination_prefix_length = Prefix::host(address).length();
    question.attributes.push(RouteAttribute::Destination(match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }));
    let answers = request(RouteNetlinkMessage::GetRoute(question), Ask::One(0), NETLINK_ROUTE)?;
    let message = answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(message) => Some(message),
        _ => None,
    });
    let unreachable = || io::Error::from(io::ErrorKind::NetworkUnreachable);
    let message = message.ok_or_else(unreachable)?;
    // For IPv6 the kernel answers with the refusing route rather than with an error.
    if matches!(
        message.header.kind,
        RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit
    ) {
        return Err(unreachable());
    }
    let out = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    out.ok_or_else(unreachable)
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn act(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    request(message, Ask::One(flags), NETLINK_ROUTE).map(|_| ())
}
