//! An HTTP/1.1 answer in bytes (RFC 9112), as the strictest reader has it: what may be read in two
//! ways is none. Nothing is shared with what it judges.

/// Fields that one head may have.
const MOST_FIELDS: usize = 100;

/// The first answer that is no interim one.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading {
    /// Not even its head is there.
    Part,
    /// It is none.
    Odd,
    /// Its status, as much of its body as there is, and how that ends.
    Answer(u16, Vec<u8>, End),
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After so many bytes in all.
    Whole(usize),
    /// With the connection.
    WithConnection,
    /// There is more of it to come.
    Cut,
}

/// What of a request decides how its answer is read.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// There is no body.
    pub head: bool,
    /// 101 is an answer, and what follows is its body.
    pub upgrade: bool,
}

enum Stop {
    Part,
    Odd,
}

enum Length {
    Known(usize),
    Chunked,
}

/// Reads one answer.
pub fn answer(bytes: &[u8], asked: Asked) -> Reading {
    let mut rest = bytes;
    loop {
        let (status, length) = match head(&mut rest) {
            Ok(head) => head,
            Err(Stop::Part) => return Reading::Part,
            Err(Stop::Odd) => return Reading::Odd,
        };
        if status == 101 {
            return match asked.upgrade {
                true => Reading::Answer(status, rest.to_vec(), End::WithConnection),
                false => Reading::Odd,
            };
        }
        if status >= 200 {
            let mut body = Vec::new();
            let end = match body_of(&mut rest, status, length, asked, &mut body) {
                Ok(true) => End::Whole(bytes.len() - rest.len()),
                Ok(false) => End::WithConnection,
                Err(Stop::Part) => End::Cut,
                Err(Stop::Odd) => return Reading::Odd,
            };
            return Reading::Answer(status, body, end);
        }
    }
}

/// Whether the body ends before the connection.
fn body_of(
    rest: &mut &[u8],
    status: u16,
    length: Option<Length>,
    asked: Asked,
    body: &mut Vec<u8>,
) -> Result<bool, Stop> {
    if asked.head || matches!(status, 204 | 304) {
        return Ok(true);
    }
    match length {
        Some(Length::Known(length)) => take(rest, length, body)?,
        Some(Length::Chunked) => chunks(rest, body)?,
        None => {
            take(rest, rest.len(), body)?;
            return Ok(false);
        }
    }
    Ok(true)
}

fn head(bytes: &mut &[u8]) -> Result<(u16, Option<Length>), Stop> {
    let first = line(bytes)?;
    let newer = first.starts_with(b"HTTP/1.1 ");
    if !newer && !first.starts_with(b"HTTP/1.0 ") {
        return Err(Stop::Odd);
    }
    let status = first.get(9..12).ok_or(Stop::Odd)?;
    if first.get(12).is_some_and(|byte| *byte != b' ') || !is_text(first) {
        return Err(Stop::Odd);
    }
    let status = number(status, 10)?;
    let (mut length, mut fields) = (None, 0);
    loop {
        let field = line(bytes)?;
        if field.is_empty() {
            break;
        }
        fields += 1;
        let (name, value) = split(field)?;
        if name == b"content-length" || name == b"transfer-encoding" {
            if length.is_some() {
                return Err(Stop::Odd);
            }
            length = Some(match (name == b"content-length", newer) {
                (true, _) => Length::Known(number(value, 10)?),
                (false, true) if value.eq_ignore_ascii_case(b"chunked") => Length::Chunked,
                (false, _) => return Err(Stop::Odd),
            });
        }
    }
    if fields > MOST_FIELDS || status < 100 {
        return Err(Stop::Odd);
    }
    Ok((status as u16, length))
}

/// The name of a field in lower case, and its value.
fn split(field: &[u8]) -> Result<(Vec<u8>, &[u8]), Stop> {
    let colon = field.iter().position(|byte| *byte == b':').ok_or(Stop::Odd)?;
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if colon == 0 || !field[..colon].iter().all(token) || !is_text(field) {
        return Err(Stop::Odd);
    }
    Ok((field[..colon].to_ascii_lowercase(), field[colon + 1..].trim_ascii()))
}

fn is_text(line: &[u8]) -> bool {
    line.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

/// A line without its CRLF.
fn line<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Stop> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Stop::Part)?;
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Stop::Odd)?;
    *bytes = &bytes[end + 1..];
    Ok(line)
}

/// Takes what there is, up to a length.
fn take(bytes: &mut &[u8], length: usize, taken: &mut Vec<u8>) -> Result<(), Stop> {
    let here = length.min(bytes.len());
    taken.extend_from_slice(&bytes[..here]);
    *bytes = &bytes[here..];
    if here == length { Ok(()) } else { Err(Stop::Part) }
}

fn number(text: &[u8], radix: u32) -> Result<usize, Stop> {
    let text = std::str::from_utf8(text).map_err(|_| Stop::Odd)?;
    let digits = !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    let number = usize::from_str_radix(text, radix).map_err(|_| Stop::Odd)?;
    if digits { Ok(number) } else { Err(Stop::Odd) }
}

fn chunks(bytes: &mut &[u8], body: &mut Vec<u8>) -> Result<(), Stop> {
    loop {
        let size = line(bytes)?;
        if !is_text(size) {
            return Err(Stop::Odd);
        }
        let digits = size.split(|byte| *byte == b';').next().unwrap_or_default();
        match number(digits, 16)? {
            0 => break,
            size => take(bytes, size, body)?,
        }
        if !line(bytes)?.is_empty() {
            return Err(Stop::Odd);
        }
    }
    let mut fields = 0;
    loop {
        let field = line(bytes)?;
        if field.is_empty() && fields <= MOST_FIELDS {
            return Ok(());
        }
        split(field)?;
        fields += 1;
    }
}
