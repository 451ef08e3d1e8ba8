//! Image references: `registry.example.com/shop/web:3.1@sha256:...`.
//!
//! The grammar is that of the distribution project's reference package: an optional domain, path
//! components in lower case, an optional tag and an optional digest. Checks syntax only; whether
//! the image exists is for the registry to say.

use std::ops::Range;

use super::format::Complaint;

/// The longest name, without tag and digest.
const NAME_MAX: usize = 255;
/// The longest tag.
const TAG_MAX: usize = 128;

/// Says which part of an image reference is wrong.
pub(super) fn check(text: &str) -> Result<(), Complaint> {
    if text.is_empty() {
        return Err(Complaint::new("the image reference is empty")
            .help("write it like `registry.example.com/shop/web:3.1`"));
    }
    if let Some((at, c)) = text.char_indices().find(|(_, c)| c.is_whitespace()) {
        return Err(
            Complaint::new("there is a blank in the image reference").at(at..at + c.len_utf8())
        );
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(Complaint::new("an image reference is not a URL")
            .at(0..scheme.len() + 3)
            .help(format!("write `{rest}`")));
    }
    let (rest, digest) = text.split_once('@').map_or((text, None), |(r, d)| (r, Some(d)));
    if let Some(digest) = digest {
        check_digest(digest, rest.len() + 1..text.len())?;
    }
    // A colon before the last slash belongs to the registry's port.
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last..].find(':') {
        Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag, name.len() + 1..rest.len())?;
    }
    check_name(name)
}

fn check_name(name: &str) -> Result<(), Complaint> {
    if name.len() > NAME_MAX {
        return Err(Complaint::new(format!("the image's name is longer than {NAME_MAX} bytes")));
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if looks_like_domain(first) => (Some(first), rest),
        _ => (None, name),
    };
    if let Some(domain) = domain {
        check_domain(domain)?;
    }
    let mut at = name.len() - path.len();
    for part in path.split('/') {
        let place = at..at + part.len();
        at += part.len() + 1;
        if part.is_empty() {
            return Err(Complaint::new("a part of the image's name is empty")
                .help("write it like `registry.example.com/shop/web:3.1`"));
        }
        if part.contains(|c: char| c.is_ascii_uppercase()) {
            return Err(Complaint::new("an image's name is in lower case")
                .at(place)
                .help(format!("write `{}`", part.to_ascii_lowercase())));
        }
        if !component(part) {
            return Err(Complaint::new(format!("`{part}` cannot be in an image's name"))
                .at(place)
                .help(
                    "use lower-case letters and digits, with single `.`, `_`, `__` or hyphens \
                     between",
                ));
        }
    }
    Ok(())
}

fn looks_like_domain(first: &str) -> bool {
    let capital = first.contains(|c: char| c.is_ascii_uppercase());
    first.contains(['.', ':']) || first == "localhost" || capital
}

fn check_domain(domain: &str) -> Result<(), Complaint> {
    let (host, port) = domain.split_once(':').map_or((domain, None), |(h, p)| (h, Some(p)));
    if let Some(port) = port
        && port.parse::<u16>().map_or(true, |port| port == 0)
    {
        return Err(Complaint::new(format!("`{port}` is not the port of a registry"))
            .at(host.len() + 1..domain.len()));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let good = |l: &str| {
        !l.is_empty() && l.bytes().all(allowed) && !l.starts_with('-') && !l.ends_with('-')
    };
    if host.split('.').all(good) {
        return Ok(());
    }
    Err(Complaint::new(format!("`{host}` is not the host of a registry")).at(0..host.len()))
}

/// `[a-z0-9]+` parts joined by one `.`, one or two `_`, or any number of `-`.
fn component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separators = part.split(|c: char| c.is_ascii() && alphanumeric(c as u8));
    let separator = |s: &str| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    let ends = part.bytes().next().is_some_and(alphanumeric)
        && part.bytes().last().is_some_and(alphanumeric);
    ends && separators.all(separator)
}

fn check_tag(tag: &str, at: Range<usize>) -> Result<(), Complaint> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let start = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if start && tag.bytes().all(inner) && tag.len() <= TAG_MAX {
        return Ok(());
    }
    let complaint = if tag.is_empty() {
        Complaint::new("there is no tag after the `:`").at(at.start - 1..at.end)
    } else {
        Complaint::new(format!("`{tag}` is not an image tag")).at(at)
    };
    Err(complaint.help("use up to 128 letters, digits, `_`, `.` and `-`, as in `:3.1`"))
}

fn check_digest(digest: &str, at: Range<usize>) -> Result<(), Complaint> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let good = digest.split_once(':').is_some_and(|(algorithm, value)| {
        let length = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return false,
        };
        value.len() == length && value.bytes().all(hex)
    });
    if good {
        return Ok(());
    }
    Err(Complaint::new("this is not an image digest")
        .at(at)
        .help("write `@sha256:` and 64 digits from 0 to 9 and a to f"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_that_registries_accept_are_accepted() {
        let digest = format!("web@sha256:{}", "0a".repeat(32));
        for good in [
            "web",
            "web:1",
            "library/web",
            "shop/web:3.1",
            "localhost/web",
            "localhost:5000/web:x",
            "registry.example.com/a/b/c:1-2_3.4",
            "a__b/c--d/e.f",
            "Registry/web",
            &digest,
            "web:_x",
            "10.0.0.1:5000/web",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn the_part_that_is_wrong_is_pointed_at() {
        let part = |text: &str| {
            let at = check(text).expect_err(text).at;
            at.map_or("all", |at| &text[at]).to_owned()
        };
        assert_eq!(part(""), "all");
        assert_eq!(part("shop/Web:1"), "Web");
        assert_eq!(part("shop/web:"), ":");
        assert_eq!(part("shop/web:a:b"), "a:b");
        assert_eq!(part("shop//web"), "all");
        assert_eq!(part("shop/a..b"), "a..b");
        assert_eq!(part("shop/web-"), "web-");
        assert_eq!(part("shop/web @x"), " ");
        assert_eq!(part("https://a.example/web"), "https://");
        assert_eq!(part("a.example:x/web"), "x");
        assert_eq!(part("-a.example/web"), "-a.example");
        assert_eq!(part("web@sha256:12"), "sha256:12");
        assert_eq!(part("wéb"), "wéb");
    }
}
