//! Where one HTTP/1 request ends and the next begins, seen before hyper sees it: a request whose
//! length can be read in two ways never gets to be one.
//!
//! hyper takes a request with both `Content-Length` and `Transfer-Encoding` (RFC 9112 section 6.3
//! lets it) and hides that there were two, so it is too late to refuse it afterwards. Here a head
//! has one field at most that says how long its body is, `Content-Length` in digits or
//! `Transfer-Encoding: chunked`, and its lines end with CRLF. Everything else about a request is
//! left to hyper, which is the stricter one: whatever it takes, this reads in the same way.
//! Tested here, and over sockets in `tests/abuse.rs`.

/// Bytes of a line that are looked at; no field that matters here is longer.
const KEPT: usize = 64;

const LENGTH: &[u8] = b"content-length";
const ENCODING: &[u8] = b"transfer-encoding";

/// A connection's bytes so far, as far as they matter for what comes next.
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    line: Line,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before a request line, where empty lines do not count (RFC 9112 section 2.2).
    Start,
    Head(Option<Length>),
    /// In a body, or in one of its chunks.
    Body {
        left: u64,
        chunk: bool,
    },
    ChunkSize,
    ChunkEnd,
    Trailers,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Known(u64),
    Chunked,
}

/// The beginning of a line.
#[derive(Debug)]
struct Line {
    kept: [u8; KEPT],
    length: usize,
    last: u8,
}

/// What may not be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ambiguous {
    /// How many of the bytes came before the line that is to blame.
    pub(crate) before: usize,
}

impl Framing {
    pub(crate) fn new() -> Framing {
        Framing { state: State::Start, line: Line { kept: [0; KEPT], length: 0, last: 0 } }
    }

    /// Goes over what came next.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<(), Ambiguous> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            if let State::Body { left, chunk } = self.state {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                at += here;
                self.state = match left - here as u64 {
                    0 if chunk => State::ChunkEnd,
                    0 => State::Start,
                    left => State::Body { left, chunk },
                };
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.line.push(rest);
                return Ok(());
            };
            self.line.push(&rest[..end]);
            self.state = self.after_line().ok_or(Ambiguous { before: at })?;
            self.line.length = 0;
            at += end + 1;
        }
        Ok(())
    }

    /// What comes after a complete line; none if it must not have been there.
    fn after_line(&self) -> Option<State> {
        let line = self.line.text()?;
        Some(match self.state {
            State::Start if line.is_empty() => State::Start,
            State::Start => State::Head(None),
            State::Head(None) if line.is_empty() => State::Start,
            State::Head(Some(Length::Known(0))) if line.is_empty() => State::Start,
            State::Head(Some(Length::Known(length))) if line.is_empty() => {
                State::Body { left: length, chunk: false }
            }
            State::Head(Some(Length::Chunked)) if line.is_empty() => State::ChunkSize,
            State::Head(known) => match self.length()? {
                None => State::Head(known),
                Some(_) if known.is_some() => return None,
                length @ Some(_) => State::Head(length),
            },
            State::ChunkSize => match chunk_size(line)? {
                0 => State::Trailers,
                size => State::Body { left: size, chunk: true },
            },
            State::ChunkEnd => line.is_empty().then_some(State::ChunkSize)?,
            State::Trailers if line.is_empty() => State::Start,
            State::Trailers => State::Trailers,
            body @ State::Body { .. } => body,
        })
    }

    /// What a field says about its request's length; none if it says it oddly.
    fn length(&self) -> Option<Option<Length>> {
        let line = self.line.text()?;
        let value = |name| field(line, name).filter(|_| self.line.is_whole());
        if field(line, LENGTH).is_some() {
            return Some(Some(Length::Known(digits(value(LENGTH)?, 10)?)));
        }
        if field(line, ENCODING).is_some() {
            let chunked = value(ENCODING)?.eq_ignore_ascii_case(b"chunked");
            return chunked.then_some(Some(Length::Chunked));
        }
        Some(None)
    }
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        if self.length < KEPT {
            let room = bytes.len().min(KEPT - self.length);
            self.kept[self.length..self.length + room].copy_from_slice(&bytes[..room]);
        }
        self.length += bytes.len();
        self.last = *last;
    }

    /// The line without its CRLF, or its beginning; none if a bare LF ended it.
    fn text(&self) -> Option<&[u8]> {
        let ended = self.length > 0 && self.last == b'\r';
        ended.then(|| &self.kept[..(self.length - 1).min(KEPT)])
    }

    fn is_whole(&self) -> bool {
        self.length <= KEPT
    }
}

/// The value of the field, if it has this name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (is, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    is.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// RFC 9112 section 7.1: digits, then what may be left out.
pub(crate) fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let goes_on = line.get(end).is_none_or(|byte| b"; \t".contains(byte));
    digits(&line[..end], 16).filter(|_| goes_on)
}

pub(crate) fn digits(text: &[u8], radix: u32) -> Option<u64> {
    let digit = |byte: &u8| char::from(*byte).is_digit(radix);
    let text = std::str::from_utf8(text).ok().filter(|text| text.as_bytes().iter().all(digit))?;
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However a text is cut into reads, it is refused at the same byte, if at all.
    fn check(text: &str, refused: Option<&str>) {
        let at = refused.map(|line| text.find(line).expect("the line is there"));
        let bytes = text.as_bytes();
        let whole = Framing::new().read(bytes).err().map(|it| it.before);
        assert_eq!(whole, at, "{text:?}");
        for cut in 1..bytes.len() {
            let mut framing = Framing::new();
            let first = framing.read(&bytes[..cut]).is_err();
            let second = !first && framing.read(&bytes[cut..]).is_err();
            assert_eq!(first || second, at.is_some(), "{text:?} cut at {cut}");
        }
    }

    #[test]
    fn bodies_are_skipped_and_the_next_head_is_looked_at() {
        let two = "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bad = format!("GET / HTTP/1.1\r\nX: 1\r\n{two}");
        for before in [
            "\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-LENGTH:50\r\n\r\n\
             Content-Length: 3\nTransfer-Encoding: chunked\n\n\n\n\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding:\tChunked \r\n\r\n\
             3;a=b\r\n\r\n\r\r\n0a \r\n\n\n\n\n\n\n\n\n\n\n\r\n00\r\nX: y\r\n\r\n",
        ] {
            check(before, None);
            check(&format!("{before}{bad}"), Some("Transfer-Encoding: chunked\r\n\r\n"));
        }
    }

    #[test]
    fn a_length_that_is_said_twice_or_oddly_is_refused() {
        let long = format!("Content-Length: {}1", "0".repeat(60));
        for field in [
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 1 1",
            "Content-Length: 1, 1",
            "Content-Length: ",
            "Content-Length: 99999999999999999999",
            &long,
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: \u{b}chunked",
            "Transfer-Encoding: identity",
        ] {
            check(&format!("POST / HTTP/1.1\r\n{field}\r\n\r\n"), Some(field));
        }
        let again = "Content-Length: 1\r\nX: y\r\nContent-length: 1\r\n\r\n";
        check(&format!("POST / HTTP/1.1\r\n{again}"), Some("Content-length: 1\r\n\r\n"));
    }

    #[test]
    fn lines_that_end_without_cr_and_odd_chunks_are_refused() {
        check("GET / HTTP/1.1\nHost: a\r\n\r\n", Some("GET"));
        check("GET / HTTP/1.1\r\nHost: a\n\r\n", Some("Host"));
        assert!(Framing::new().read(b"GET / HTTP/1.1\r\nHost: a\r\n\n").is_err());
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for odd in ["G\r\n", ";\r\n", "\r\n", "1\n", "0x1\r\n", "+1\r\n", "1ffffffffffffffff\r\n"] {
            assert!(Framing::new().read(format!("{chunked}{odd}").as_bytes()).is_err(), "{odd:?}");
        }
        check(&format!("{chunked}1\r\nab\r\n"), Some("b\r\n"));
        check(&format!("{chunked}0\r\nX: y\n\r\n\r\n"), Some("X: y"));
    }
}
