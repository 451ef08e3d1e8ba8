//! What path a request is for, whoever spells it how.
//!
//! Routes guard what lies below them, so a path must not mean one thing here and another at the
//! backend. Percent-encoded characters count as themselves; dot segments are refused; what may or
//! may not be a slash (`%2f`, `\`, `//`) is returned in a second reading, and the caller refuses
//! where the two readings lead to different routes.

use std::borrow::Cow;

/// A path, read in the two ways in which backends might.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reading<'a> {
    /// Decoded, but for encoded slashes and backslashes.
    pub(crate) plain: Cow<'a, str>,
    /// The same where everything like a slash is one, and slashes in a row are one; only there
    /// where that makes a difference.
    pub(crate) slashed: Option<String>,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadPath {
    NoSlash,
    Encoding,
    DotSegment,
    Control,
}

impl BadPath {
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            BadPath::NoSlash => "The path does not begin with a slash.",
            BadPath::Encoding => "The path has a percent sign that encodes nothing.",
            BadPath::DotSegment => "The path has a segment of dots; send the path it stands for.",
            BadPath::Control => "The path has a control character.",
        }
    }
}

/// Reads the path of a request as it was sent.
pub(crate) fn read(raw: &str) -> Result<Reading<'_>, BadPath> {
    if !raw.starts_with('/') {
        return Err(BadPath::NoSlash);
    }
    if is_simple(raw.as_bytes()) {
        return Ok(Reading { plain: Cow::Borrowed(raw), slashed: None });
    }
    let mut plain = Vec::with_capacity(raw.len());
    let mut slashed = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let (byte, encoded) = if first == b'%' { (decode(after)?, true) } else { (first, false) };
        rest = if encoded { &after[2..] } else { after };
        if byte < 0x20 || byte == 0x7f {
            return Err(BadPath::Control);
        }
        let like_a_slash = byte == b'/' || byte == b'\\';
        if encoded && like_a_slash {
            plain.extend_from_slice(if byte == b'/' { b"%2F" } else { b"%5C" });
        } else {
            plain.push(byte);
        }
        if !like_a_slash {
            slashed.push(byte);
        } else if slashed.last() != Some(&b'/') {
            slashed.push(b'/');
        }
    }
    if slashed.split(|byte| *byte == b'/').any(is_dots) {
        return Err(BadPath::DotSegment);
    }
    let plain = into_text(plain);
    let slashed = into_text(slashed);
    let slashed = (slashed != plain).then_some(slashed);
    Ok(Reading { plain: Cow::Owned(plain), slashed })
}

/// How many bytes of the path as it was sent spell the first `length` bytes of its plain reading.
pub(crate) fn raw_length(raw: &str, length: usize) -> usize {
    let bytes = raw.as_bytes();
    let (mut at, mut read) = (0, 0);
    while read < length && at < bytes.len() {
        let encoded_slash = matches!(
            bytes.get(at..at + 3),
            Some([b'%', b'2', b'f' | b'F'] | [b'%', b'5', b'c' | b'C'])
        );
        let step = if bytes[at] == b'%' { 3 } else { 1 };
        at += step;
        read += if encoded_slash { 3 } else { 1 };
    }
    at.min(bytes.len())
}

/// Whether there is nothing to decode, merge or refuse.
fn is_simple(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        let odd = byte == b'%' || byte == b'\\' || byte < 0x20 || byte == 0x7f;
        if odd || (before == b'/' && (byte == b'/' || byte == b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

/// `.`, `..`, and either with a parameter (`..;x`), which some servers drop.
fn is_dots(segment: &[u8]) -> bool {
    let name = segment.split(|byte| *byte == b';').next().unwrap_or(segment);
    name == b"." || name == b".."
}

fn decode(after: &[u8]) -> Result<u8, BadPath> {
    let digit = |at: usize| {
        let byte = after.get(at).copied().ok_or(BadPath::Encoding)?;
        char::from(byte).to_digit(16).ok_or(BadPath::Encoding)
    };
    let value = digit(0)? * 16 + digit(1)?;
    u8::try_from(value).map_err(|_| BadPath::Encoding)
}

fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|odd| String::from_utf8_lossy(odd.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, plain: &str, slashed: Option<&str>) {
        let reading = read(raw).unwrap();
        assert_eq!(reading.plain, plain, "{raw}");
        assert_eq!(reading.slashed.as_deref(), slashed, "{raw}");
    }

    #[test]
    fn encoded_characters_count_as_themselves() {
        check("/a/b", "/a/b", None);
        check("/%61dmin", "/admin", None);
        check("/.well-known/x", "/.well-known/x", None);
        check("/a%20b", "/a b", None);
    }

    #[test]
    fn what_may_be_a_slash_is_read_both_ways() {
        check("/a%2Fb", "/a%2Fb", Some("/a/b"));
        check("/a%5cb", "/a%5CB".replace('B', "b").as_str(), Some("/a/b"));
        check("//admin", "//admin", Some("/admin"));
        check("/x\\y", "/x\\y", Some("/x/y"));
    }

    #[test]
    fn tricks_are_refused() {
        for raw in ["/a/../b", "/..", "/a/%2e%2e/b", "/a/.%2E", "/a/..%2fb", "/./a", "/a/..;x/b"] {
            assert_eq!(read(raw), Err(BadPath::DotSegment), "{raw}");
        }
        assert_eq!(read("/a\\..\\b"), Err(BadPath::DotSegment));
        assert_eq!(read("/a%00"), Err(BadPath::Control));
        assert_eq!(read("/a%0d%0ab"), Err(BadPath::Control));
        assert_eq!(read("/a%2"), Err(BadPath::Encoding));
        assert_eq!(read("/a%zz"), Err(BadPath::Encoding));
        assert_eq!(read("a"), Err(BadPath::NoSlash));
    }

    #[test]
    fn a_prefix_is_found_in_the_path_as_it_was_sent() {
        assert_eq!(raw_length("/api/x", 4), 4);
        assert_eq!(raw_length("/%61pi/x", 4), 6);
        assert_eq!(raw_length("/a%2Fb/x", 6), 6);
    }
}
