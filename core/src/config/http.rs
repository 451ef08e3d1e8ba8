//! What routes say of HTTP: networks, header fields, names and passwords.

use core::net::IpAddr;

use super::format::Complaint;

/// Header fields that belong to one connection, or that Mill sets itself.
const MILLS_OWN: [&str; 12] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// What a bcrypt hash has after its version and cost.
const HASH_LENGTH: usize = 53;
/// Doubling with each step: more than this takes a second for each try.
const COSTS: core::ops::RangeInclusive<u32> = 4..=14;

/// An address, or a network of them: `192.0.2.0/24`.
pub(super) fn network(text: &str) -> Result<(), Complaint> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let complain = |why: String| Complaint::new(why).help("write one like `192.0.2.0/24`");
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(complain(format!("`{text}` is not a network")));
    };
    let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = prefix else { return Ok(()) };
    let Some(prefix) = prefix.parse::<u32>().ok().filter(|prefix| *prefix <= bits) else {
        return Err(complain(format!("`{text}` has no prefix of 0 to {bits} bits")));
    };
    let host_bits = match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96 << prefix.min(31),
        IpAddr::V6(address) => u128::from(address) << prefix.min(127),
    };
    let stray = host_bits != 0 && prefix < bits;
    if stray {
        return Err(complain(format!("`{text}` has bits set after its prefix"))
            .help("write the network's first address"));
    }
    Ok(())
}

pub(super) fn directory(text: &str) -> Result<(), Complaint> {
    let rest = text.strip_prefix("https://").filter(|rest| !rest.is_empty());
    match rest.is_some_and(|rest| !rest.contains(|c: char| c.is_whitespace() || c.is_control())) {
        true => Ok(()),
        false => Err(Complaint::new(format!("`{text}` is not the URL of an ACME directory"))
            .help("write one that starts with `https://`")),
    }
}

pub(super) fn certificate(text: &str) -> Result<(), Complaint> {
    match text.starts_with("-----BEGIN CERTIFICATE-----") {
        true => Ok(()),
        false => Err(Complaint::new("this is not a certificate in PEM")
            .help("write the file's content, from its `-----BEGIN CERTIFICATE-----` on")),
    }
}

pub(super) fn header_name(text: &str) -> Result<(), Complaint> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err(Complaint::new(format!("`{text}` cannot be a header's name"))
            .help("write one like `X-Frame-Options`"));
    }
    match MILLS_OWN.contains(&text.to_ascii_lowercase().as_str()) {
        true => Err(Complaint::new(format!("`{text}` is set by Mill itself"))
            .help("leave it out: it belongs to a connection, or says who the client is")),
        false => Ok(()),
    }
}

pub(super) fn header_value(text: &str) -> Result<(), Complaint> {
    match text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        true => Ok(()),
        false => Err(Complaint::new("this has bytes that cannot be in a header")
            .help("use letters, digits, signs and spaces of ASCII")),
    }
}

/// RFC 7617: the name ends at the first colon.
pub(super) fn login(text: &str) -> Result<(), Complaint> {
    match !text.is_empty() && !text.contains(|c: char| c == ':' || c.is_control()) {
        true => Ok(()),
        false => Err(Complaint::new(format!("`{text}` cannot be a name for basic auth"))
            .help("use a name without `:`")),
    }
}

pub(super) fn password_hash(text: &str) -> Result<(), Complaint> {
    let help = "make one with `htpasswd -nB NAME`, and write what follows the name and colon";
    let complain = |why: &str| Err(Complaint::new(why).help(help));
    let version = ["$2y$", "$2b$", "$2a$"].iter().find_map(|v| text.strip_prefix(v));
    let Some((cost, hash)) = version.and_then(|rest| rest.split_once('$')) else {
        return complain("this is not a bcrypt hash");
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'/';
    if hash.len() != HASH_LENGTH || !hash.bytes().all(allowed) {
        return complain("this bcrypt hash is damaged");
    }
    match cost.parse().is_ok_and(|cost| COSTS.contains(&cost)) {
        true => Ok(()),
        false => complain("this bcrypt hash has a cost outside 4 to 14"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(check: fn(&str) -> Result<(), Complaint>, good: &[&str], bad: &[&str]) {
        good.iter().for_each(|text| assert_eq!(check(text), Ok(()), "{text}"));
        bad.iter().for_each(|text| assert!(check(text).is_err(), "{text}"));
    }

    #[test]
    fn each_tells_good_from_bad() {
        check(
            network,
            &[
                "192.0.2.0/24",
                "10.0.0.1",
                "0.0.0.0/0",
                "2001:db8::/32",
                "::1",
                "::/0",
                "1.2.3.4/32",
            ],
            &["", "192.0.2.0/33", "192.0.2.1/24", "a.example", "1.2.3.0/", "2001:db8::1/64"],
        );
        check(
            header_name,
            &["X-Env", "Strict-Transport-Security"],
            &["", "X Env", "X:", "Host", "content-length", "X-Forwarded-For"],
        );
        check(header_value, &["", "max-age=1; a"], &["a\nb", "ä", "\0"]);
        check(login, &["ops", "a b"], &["", "a:b", "a\n"]);
        let hash = "$2y$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";
        check(
            password_hash,
            &[hash],
            &["", "secret", "$2y$10$short", &hash.replace("$10$", "$31$"), &hash.replace('N', "!")],
        );
    }
}
