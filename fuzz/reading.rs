//! HTTP/1.1 requests in bytes (RFC 9112), as far as where each ends; nothing is shared with what
//! it judges.

/// A request, as far as it could be mistaken for another.
#[derive(Debug)]
pub struct Request {
    method: Vec<u8>,
    target: Vec<u8>,
    body: Vec<u8>,
}

/// What comes after the last whole request.
#[derive(Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing, or a part of one.
    Part,
    /// What is none.
    Odd,
}

enum Stop {
    Part,
    Odd,
}

/// All requests from the beginning.
pub fn requests(bytes: &[u8]) -> (Vec<Request>, Rest) {
    let (mut found, mut rest) = (Vec::new(), bytes);
    loop {
        match request(&mut rest) {
            Ok(request) => found.push(request),
            Err(Stop::Part) => return (found, Rest::Part),
            Err(Stop::Odd) => return (found, Rest::Odd),
        }
    }
}

impl Request {
    /// Whether it could be the same one after a proxy, which shortens targets.
    pub fn is(&self, forwarded: &Request) -> bool {
        let same_target = self.target.ends_with(&forwarded.target)
            || self.target.contains(&b'#')
            || self.target.windows(3).any(|part| part == b"://");
        same_target && self.method == forwarded.method && self.body == forwarded.body
    }
}

fn request(bytes: &mut &[u8]) -> Result<Request, Stop> {
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        *bytes = rest;
    }
    let mut first = line(bytes)?.splitn(3, |byte| *byte == b' ');
    let (method, target) = (first.next().ok_or(Stop::Odd)?, first.next().ok_or(Stop::Odd)?);
    if !first.next().is_some_and(|version| version.starts_with(b"HTTP/1.")) {
        return Err(Stop::Odd);
    }
    let mut lengths = Vec::new();
    loop {
        let field = line(bytes)?;
        if field.is_empty() {
            break;
        }
        let colon = field.iter().position(|byte| *byte == b':').ok_or(Stop::Odd)?;
        let (name, value) = (field[..colon].to_ascii_lowercase(), field[colon + 1..].trim_ascii());
        if name == b"content-length" || name == b"transfer-encoding" {
            lengths.push((name, value));
        }
    }
    let body = match &lengths[..] {
        [] => Vec::new(),
        [(name, value)] if name == b"content-length" => take(bytes, number(value, 10)?)?.to_vec(),
        [(_, value)] if value.eq_ignore_ascii_case(b"chunked") => chunks(bytes)?,
        _ => return Err(Stop::Odd),
    };
    Ok(Request { method: method.to_vec(), target: target.to_vec(), body })
}

/// A line without its CRLF.
fn line<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Stop> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Stop::Part)?;
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Stop::Odd)?;
    *bytes = &bytes[end + 1..];
    Ok(line)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Stop> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Stop::Part)?;
    *bytes = rest;
    Ok(taken)
}

fn number(text: &[u8], radix: u32) -> Result<usize, Stop> {
    let text = std::str::from_utf8(text).map_err(|_| Stop::Odd)?;
    let digits = text.chars().all(|digit| digit.is_digit(radix));
    let number = usize::from_str_radix(text, radix).map_err(|_| Stop::Odd)?;
    if digits { Ok(number) } else { Err(Stop::Odd) }
}

fn chunks(bytes: &mut &[u8]) -> Result<Vec<u8>, Stop> {
    let mut body = Vec::new();
    loop {
        let size = line(bytes)?;
        let digits = size.split(|byte| b"; \t".contains(byte)).next().unwrap_or_default();
        match number(digits, 16)? {
            0 => break,
            size => body.extend_from_slice(take(bytes, size)?),
        }
        if !line(bytes)?.is_empty() {
            return Err(Stop::Odd);
        }
    }
    while !line(bytes)?.is_empty() {}
    Ok(body)
}
