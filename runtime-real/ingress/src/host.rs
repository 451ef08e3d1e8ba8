//! Which host a request is for (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
//!
//! There must be exactly one, in the request's target or in `Host`; two must agree. The name is
//! compared without its port, in lower case, without a final dot.

use std::borrow::Cow;

use hyper::header::HOST;
use hyper::http::request::Parts;

/// Why a request's host is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHost {
    Missing,
    Several,
    Differs,
    Malformed,
}

impl BadHost {
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            BadHost::Missing => "The request names no host.",
            BadHost::Several => "The request names its host more than once.",
            BadHost::Differs => "The request's target and its Host header name different hosts.",
            BadHost::Malformed => "The request's host is not a host name.",
        }
    }
}

/// The host and the port of a request as it was sent: `shop.example.com:8080`.
pub(crate) fn authority(parts: &Parts) -> Result<&str, BadHost> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(BadHost::Several);
    }
    let field = match field {
        Some(value) => Some(value.to_str().map_err(|_| BadHost::Malformed)?),
        None => None,
    };
    let target = parts.uri.authority().map(hyper::http::uri::Authority::as_str);
    match (target, field) {
        (Some(target), Some(field)) if !target.eq_ignore_ascii_case(field) => Err(BadHost::Differs),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(BadHost::Missing),
    }
}

/// The name in an authority, as routes spell it.
pub(crate) fn name(authority: &str) -> Result<Cow<'_, str>, BadHost> {
    let (name, port) = match authority.rfind(':') {
        Some(at) if !authority.ends_with(']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, ""),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let six = name.starts_with('[') && name.ends_with(']');
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_')
            || (six && matches!(byte, b'[' | b']' | b':'))
    };
    let fits = !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed);
    if !fits || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadHost::Malformed);
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_compared_without_port_case_and_final_dot() {
        assert_eq!(name("Shop.Example.COM.:8080").unwrap(), "shop.example.com");
        assert_eq!(name("shop.example.com").unwrap(), "shop.example.com");
        assert_eq!(name("[2001:db8::1]:80").unwrap(), "[2001:db8::1]");
        assert_eq!(name("[2001:db8::1]").unwrap(), "[2001:db8::1]");
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for odd in ["", ":80", "a b", "user@host", "a/b", "host:80x", "a,b", "ho\u{e9}st", "a:b:1"]
        {
            assert_eq!(name(odd), Err(BadHost::Malformed), "{odd}");
        }
    }
}
