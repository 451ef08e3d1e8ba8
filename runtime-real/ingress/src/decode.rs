//! What a backend answers in HTTP/1.1, read from its bytes: the head (RFC 9112 section 4), and
//! where its body ends (section 6.3). No bytes are read here, and none are sent.
//!
//! An answer whose end could be read in two ways never makes its connection serve another
//! request. Fields that are for the connection alone stay behind (RFC 9110 section 7.6.1).
//! Tested in `decode/tests.rs`, and over sockets in `tests/backends.rs`.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use hyper::StatusCode;
use hyper::body::{Frame, SizeHint};
use hyper::ext::ReasonPhrase;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use thiserror::Error;

use crate::framing::{chunk_size, digits};
use crate::headers::{KEEP_ALIVE, PROXY_CONNECTION};

/// Fields that one head may have.
const MAX_FIELDS: usize = 100;

/// Bytes of a line that begins a chunk, with what extends it.
const MAX_CHUNK_LINE: usize = 4_096;

/// Why an answer cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadAnswer {
    #[error("the head of the answer is malformed")]
    Head,
    #[error("the head of the answer is too large")]
    TooLarge,
    #[error("the answer's length is ambiguous")]
    Length,
    #[error("the answer's body is malformed")]
    Body,
    #[error("the connection ended before the answer did")]
    Ended,
}

/// What of a request decides how its answer is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// Answers to HEAD have no body.
    pub(crate) head: bool,
    /// 101 is an answer.
    pub(crate) upgrade: bool,
}

/// The head of an answer; its fields are where the caller wanted them.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) reason: Option<ReasonPhrase>,
    pub(crate) body: Decoder,
    /// Another request may follow on the connection.
    pub(crate) keep: bool,
    /// What the connection goes over to.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Where a body ends, as far as it has been read.
#[derive(Debug)]
pub(crate) enum Decoder {
    Done,
    Length(u64),
    Chunked(Chunks),
    /// With the connection.
    UntilEnd,
}

#[derive(Debug)]
pub(crate) enum Chunks {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
}

/// A head in a buffer, by position.
struct Found {
    length: usize,
    status: StatusCode,
    newer: bool,
    reason: Range<usize>,
    fields: [(Range<u32>, Range<u32>); MAX_FIELDS],
    count: usize,
}

/// What the fields say about the connection and the body.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    /// Whether the last transfer coding is `chunked`.
    chunked: Option<bool>,
    close: bool,
    keep_alive: bool,
    upgrade: Option<HeaderValue>,
    options: Vec<HeaderName>,
}

/// Takes the head of the final answer from the buffer, if all of it is there; interim ones (RFC
/// 9110 section 15.2) are left out.
pub(crate) fn head(
    buffer: &mut BytesMut,
    most: usize,
    asked: Asked,
    headers: &mut HeaderMap,
) -> Result<Option<Head>, BadAnswer> {
    loop {
        if buffer.is_empty() {
            return Ok(None);
        }
        let Some(found) = find(buffer, most)? else {
            return if buffer.len() < most { Ok(None) } else { Err(BadAnswer::TooLarge) };
        };
        let switching = found.status == StatusCode::SWITCHING_PROTOCOLS;
        if found.status.is_informational() && !switching {
            buffer.advance(found.length);
            continue;
        }
        if switching && !asked.upgrade {
            return Err(BadAnswer::Head);
        }
        let bytes = buffer.split_to(found.length).freeze();
        let mut said = fields(&found, &bytes, headers)?;
        for option in said.options.drain(..).filter(|name| *name != CONTENT_LENGTH) {
            headers.remove(option);
        }
        let both = said.chunked.is_some() && headers.remove(CONTENT_LENGTH).is_some();
        let body = body(&found, &said, asked)?;
        let kept = if found.newer { !said.close } else { said.keep_alive && !said.close };
        let ends = matches!(body, Decoder::UntilEnd);
        let reason = bytes.slice(found.reason);
        let canonical = found.status.canonical_reason().is_some_and(|it| reason == it);
        let reason = if canonical { None } else { ReasonPhrase::try_from(reason).ok() };
        let keep = kept && !ends && !both && !switching;
        return Ok(Some(Head { status: found.status, reason, body, keep, upgrade: said.upgrade }));
    }
}

/// Where things are in the head, if all of it is there.
fn find(buffer: &[u8], most: usize) -> Result<Option<Found>, BadAnswer> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut read = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let status = config.parse_response_with_uninit_headers(&mut read, buffer, &mut fields);
    let length = match status.map_err(|_| BadAnswer::Head)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    if length > most {
        return Err(BadAnswer::TooLarge);
    }
    let place = |part: &[u8]| {
        let start = part.as_ptr() as usize - buffer.as_ptr() as usize;
        start..start + part.len()
    };
    let short = |part: &[u8]| {
        let place = place(part);
        place.start as u32..place.end as u32
    };
    let mut places = [const { (0..0, 0..0) }; MAX_FIELDS];
    for (field, place) in read.headers.iter().zip(&mut places) {
        *place = (short(field.name.as_bytes()), short(field.value));
    }
    let status = StatusCode::from_u16(read.code.unwrap_or(0)).map_err(|_| BadAnswer::Head)?;
    let reason = read.reason.filter(|reason| !reason.is_empty());
    Ok(Some(Found {
        length,
        status,
        newer: read.version == Some(1),
        reason: reason.map_or(0..0, |reason| place(reason.as_bytes())),
        fields: places,
        count: read.headers.len(),
    }))
}

/// Takes over the fields that are for the client, and notes what the others say.
fn fields(found: &Found, bytes: &Bytes, headers: &mut HeaderMap) -> Result<Said, BadAnswer> {
    let mut said = Said::default();
    headers.clear();
    headers.reserve(found.count);
    for (name, value) in &found.fields[..found.count] {
        let name = HeaderName::from_bytes(&bytes[name.start as usize..name.end as usize])
            .map_err(|_| BadAnswer::Head)?;
        let value = bytes.slice(value.start as usize..value.end as usize);
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| BadAnswer::Head)?;
        if name == CONTENT_LENGTH {
            let first = said.length.is_none();
            let length = length(&value, said.length).ok_or(BadAnswer::Length)?;
            said.length = Some(length);
            if first {
                headers.append(name, value);
            }
        } else if name == TRANSFER_ENCODING {
            let last = value.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
            said.chunked = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        } else if name == CONNECTION {
            said.connection(&value);
        } else if name == UPGRADE {
            said.upgrade = Some(value);
        } else if name != KEEP_ALIVE && name != PROXY_CONNECTION {
            headers.append(name, value);
        }
    }
    Ok(said)
}

impl Said {
    fn connection(&mut self, value: &HeaderValue) {
        for option in value.as_bytes().split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if let Ok(name) = HeaderName::from_bytes(option) {
                self.options.push(name);
            }
        }
    }
}

/// A length that is said once, or each time the same.
fn length(value: &HeaderValue, before: Option<u64>) -> Option<u64> {
    let length = digits(value.as_bytes(), 10)?;
    before.is_none_or(|before| before == length).then_some(length)
}

/// RFC 9112 section 6.3.
fn body(found: &Found, said: &Said, asked: Asked) -> Result<Decoder, BadAnswer> {
    let bare = found.status.is_informational()
        || matches!(found.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if asked.head || bare {
        return Ok(Decoder::Done);
    }
    Ok(match (said.chunked, said.length) {
        (Some(_), _) if !found.newer => return Err(BadAnswer::Length),
        (Some(true), _) => Decoder::Chunked(Chunks::Size),
        (Some(false), _) | (None, None) => Decoder::UntilEnd,
        (None, Some(0)) => Decoder::Done,
        (None, Some(length)) => Decoder::Length(length),
    })
}

impl Decoder {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Decoder::Done)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Decoder::Done => SizeHint::with_exact(0),
            Decoder::Length(left) => SizeHint::with_exact(*left),
            Decoder::Chunked(_) | Decoder::UntilEnd => SizeHint::default(),
        }
    }

    /// How many bytes are worth reading next.
    pub(crate) fn wants(&self) -> u64 {
        match self {
            Decoder::Done => 0,
            Decoder::Length(left) => *left,
            Decoder::Chunked(_) | Decoder::UntilEnd => u64::MAX,
        }
    }

    /// The next piece of the body, as far as it is in the buffer.
    pub(crate) fn next(
        &mut self,
        buffer: &mut BytesMut,
        most: usize,
    ) -> Result<Option<Frame<Bytes>>, BadAnswer> {
        match self {
            Decoder::Done => Ok(None),
            Decoder::UntilEnd => {
                Ok((!buffer.is_empty()).then(|| Frame::data(buffer.split().freeze())))
            }
            Decoder::Length(left) => {
                let data = take(buffer, left);
                if *left == 0 {
                    *self = Decoder::Done;
                }
                Ok(data)
            }
            Decoder::Chunked(_) => self.next_chunk(buffer, most),
        }
    }

    /// The connection has ended; whether the body has, too.
    pub(crate) fn end(&mut self) -> Result<(), BadAnswer> {
        match self {
            Decoder::Done => {}
            Decoder::UntilEnd => *self = Decoder::Done,
            Decoder::Length(_) | Decoder::Chunked(_) => return Err(BadAnswer::Ended),
        }
        Ok(())
    }

    /// RFC 9112 section 7.1.
    fn next_chunk(
        &mut self,
        buffer: &mut BytesMut,
        most: usize,
    ) -> Result<Option<Frame<Bytes>>, BadAnswer> {
        while let Decoder::Chunked(chunks) = self {
            match chunks {
                Chunks::Size => {
                    let Some(line) = line(buffer, MAX_CHUNK_LINE)? else { return Ok(None) };
                    *chunks = match chunk_size(&buffer[..line]).ok_or(BadAnswer::Body)? {
                        0 => Chunks::Trailers,
                        size => Chunks::Data(size),
                    };
                    buffer.advance(line + 2);
                }
                Chunks::Data(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        *chunks = Chunks::DataEnd;
                    }
                    return Ok(data);
                }
                Chunks::DataEnd => {
                    let Some(_empty) = line(buffer, 2)? else { return Ok(None) };
                    buffer.advance(2);
                    *chunks = Chunks::Size;
                }
                Chunks::Trailers => {
                    let Some(trailers) = trailers(buffer, most)? else { return Ok(None) };
                    *self = Decoder::Done;
                    return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
                }
            }
        }
        Ok(None)
    }
}

fn take(buffer: &mut BytesMut, left: &mut u64) -> Option<Frame<Bytes>> {
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= here as u64;
    (here > 0).then(|| Frame::data(buffer.split_to(here).freeze()))
}

/// Bytes of the next line without its CRLF, if all of it is there.
fn line(buffer: &[u8], most: usize) -> Result<Option<usize>, BadAnswer> {
    let looked_at = &buffer[..buffer.len().min(most)];
    match memchr::memchr(b'\n', looked_at) {
        Some(end) if end > 0 && buffer[end - 1] == b'\r' => Ok(Some(end - 1)),
        None if buffer.len() < most => Ok(None),
        Some(_) | None => Err(BadAnswer::Body),
    }
}

fn trailers(buffer: &mut BytesMut, most: usize) -> Result<Option<HeaderMap>, BadAnswer> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let read = httparse::parse_headers(buffer, &mut fields).map_err(|_| BadAnswer::Body)?;
    let httparse::Status::Complete((length, read)) = read else {
        return if buffer.len() < most { Ok(None) } else { Err(BadAnswer::Body) };
    };
    let mut trailers = HeaderMap::with_capacity(read.len());
    for field in read {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadAnswer::Body)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| BadAnswer::Body)?;
        trailers.append(name, value);
    }
    buffer.advance(length);
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests;
