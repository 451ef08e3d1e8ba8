//! Header fields on their way through: what belongs to one connection stays behind (RFC 9110
//! section 7.6.1), and the backend learns whom it talks to.
//!
//! What a client says of itself in `X-Forwarded-*` is replaced, unless its peer is a proxy that
//! is trusted; then the peer is added to it.

use std::net::IpAddr;

use hyper::Version;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName,
    HeaderValue, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};

use crate::answer::REQUEST_ID;
use crate::cidr::Cidr;
use crate::connection::Client;
use crate::plan::Change;

pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
pub(crate) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 128;

/// Which protocol a request asks to go over to, if its connection may.
pub(crate) fn upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    if version != Version::HTTP_11 {
        return None;
    }
    let wanted = headers.get(UPGRADE)?;
    names(headers).any(|name| name.eq_ignore_ascii_case("upgrade")).then(|| wanted.clone())
}

/// Takes out what was for this connection alone.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named = names(headers).filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        for name in named.collect::<Vec<_>>() {
            // A client may not take out what says where its request goes and how long it is.
            if name != HOST && name != CONTENT_LENGTH {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

fn names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

/// How many fields there are. HTTP/2 sends a field for each cookie, so all of them count as one.
pub(crate) fn count(headers: &HeaderMap) -> usize {
    let cookies = headers.get_all(COOKIE).iter().count();
    headers.len() - cookies.saturating_sub(1)
}

/// Cookies in fields of their own become one field, as HTTP/1.1 has it (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    if cookies.by_ref().nth(1).is_none() {
        return;
    }
    let all = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Fields that are taken out of requests or changed, but for those that every request gets.
const LOOKED_AT: [HeaderName; 11] = [
    CONNECTION,
    TE,
    EXPECT,
    UPGRADE,
    TRANSFER_ENCODING,
    COOKIE,
    PROXY_AUTHORIZATION,
    FORWARDED,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    REAL_IP,
];

/// Makes a client's header fields those of a request to a backend.
pub(crate) fn to_backend(headers: &mut HeaderMap, client: &Client, host: HeaderValue, trust: bool) {
    // To go over the few that there are costs less than to look for each of those.
    if headers.keys().any(|name| LOOKED_AT.contains(name)) {
        take_out(headers, trust);
    }
    let chain = if trust { chain(headers, &client.peer_text) } else { None };
    headers.insert(FORWARDED_FOR, chain.unwrap_or_else(|| client.peer_text.clone()));
    if !(trust && headers.contains_key(FORWARDED_PROTO)) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(client.scheme()));
    }
    if !(trust && headers.contains_key(FORWARDED_HOST)) {
        headers.insert(FORWARDED_HOST, host.clone());
    }
    headers.insert(HOST, host);
}

fn take_out(headers: &mut HeaderMap, trust: bool) {
    let trailers = headers.get(TE).is_some_and(|te| {
        te.to_str().is_ok_and(|te| te.split(',').any(|one| one.trim() == "trailers"))
    });
    strip_hop_by_hop(headers);
    join_cookies(headers);
    headers.remove(TE);
    headers.remove(EXPECT);
    headers.remove(PROXY_AUTHORIZATION);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if !trust {
        headers.remove(FORWARDED);
        headers.remove(REAL_IP);
    }
}

fn chain(headers: &HeaderMap, peer: &HeaderValue) -> Option<HeaderValue> {
    let before = headers.get_all(FORWARDED_FOR).iter();
    let mut chain = before.flat_map(|value| [value.as_bytes(), b", "]).collect::<Vec<_>>().concat();
    chain.extend_from_slice(peer.as_bytes());
    HeaderValue::from_bytes(&chain).ok()
}

/// Who the client is: the last address in `X-Forwarded-For` that is no trusted proxy.
pub(crate) fn client_address(headers: &HeaderMap, peer: IpAddr, trusted: &[Cidr]) -> IpAddr {
    let values = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let chain: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    let mut client = peer;
    for text in chain.into_iter().rev() {
        let Ok(address) = text.parse::<IpAddr>() else {
            break;
        };
        client = address;
        if !trusted.iter().any(|range| range.contains(address)) {
            break;
        }
    }
    client
}

/// The request's id, if it brought one that is safe to log.
pub(crate) fn sane_request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    let sane = (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(allowed);
    sane.then_some(id)
}

/// Carries out a route's header rules.
pub(crate) fn change(headers: &mut HeaderMap, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Set(name, value) => {
                headers.insert(name, value.clone());
            }
            Change::Remove(name) => {
                headers.remove(name);
            }
        }
    }
}

/// Puts back what strips as hop-by-hop, for a connection that goes over to another protocol.
pub(crate) fn ask_for_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}
