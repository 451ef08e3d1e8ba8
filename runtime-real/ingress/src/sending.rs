//! A request on its way to a backend in HTTP/1.1: its head, then its body as it comes from the
//! client.
//!
//! How long the body is, is said here and nowhere else (RFC 9112 section 6): by its length where
//! that is known, and then exactly so many bytes are sent, or in chunks.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::Method;
use hyper::body::{Body, Frame};
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, TRAILER, TRANSFER_ENCODING,
};
use hyper::http::uri::PathAndQuery;
use thiserror::Error;
use tokio::io::AsyncWrite;

use crate::body::{ForwardBody, Upload};
use crate::retry::Outgoing;

/// Why not all of a request was sent.
#[derive(Debug, Error)]
pub(crate) enum Unsent {
    /// The client's part of it.
    #[error("the client's body cannot be passed on")]
    Upload,
    #[error("the connection to the backend broke")]
    Connection(#[source] io::Error),
}

/// What of a request is still to be written.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    /// The head, or what comes before a chunk's data, from `at` on.
    text: Vec<u8>,
    at: usize,
    data: Bytes,
    /// What comes after the data.
    tail: &'static [u8],
    upload: Option<Rc<Upload>>,
    length: Length,
    pub(crate) written: u64,
}

#[derive(Debug)]
enum Length {
    /// So many bytes are to come.
    Known(u64),
    /// In chunks, and after them these fields if they come.
    Chunked(Vec<HeaderName>),
}

impl Default for Length {
    fn default() -> Length {
        Length::Known(0)
    }
}

impl Sending {
    /// Begins with a request.
    pub(crate) fn begin(&mut self, request: &Outgoing) {
        self.text.clear();
        (self.at, self.written) = (0, 0);
        (self.data, self.tail) = (Bytes::new(), b"");
        let target = request.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let parts = [request.method.as_str(), " ", target, " HTTP/1.1\r\n"];
        parts.iter().for_each(|part| self.text.extend_from_slice(part.as_bytes()));
        let mut had_length = false;
        for (name, value) in &request.headers {
            if name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
                had_length = true;
                continue;
            }
            self.field(name.as_str().as_bytes(), value.as_bytes());
        }
        self.upload = request.upload.clone();
        let known = ForwardBody(request.upload.clone()).size_hint().exact();
        self.length = match (&request.upload, known) {
            (None, _) if had_length || means_a_body(&request.method) => self.sized(0),
            (None, _) => Length::Known(0),
            (Some(_), Some(length)) => self.sized(length),
            (Some(_), None) => {
                self.field(b"transfer-encoding", b"chunked");
                Length::Chunked(announced(&request.headers))
            }
        };
        self.text.extend_from_slice(b"\r\n");
    }

    fn sized(&mut self, length: u64) -> Length {
        self.field(b"content-length", length.to_string().as_bytes());
        Length::Known(length)
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.text.reserve(name.len() + value.len() + 4);
        for part in [name, b": ", value, b"\r\n"] {
            self.text.extend_from_slice(part);
        }
    }

    /// Whether all of it has been written.
    pub(crate) fn is_done(&self) -> bool {
        self.upload.is_none() && self.is_written()
    }

    fn is_written(&self) -> bool {
        self.at == self.text.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Gives up the rest.
    pub(crate) fn stop(&mut self) {
        self.upload = None;
    }

    /// Writes all that there is, and is ready when nothing more will come.
    pub(crate) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent>> {
        loop {
            if self.data.is_empty()
                && self.tail.is_empty()
                && let Some(upload) = self.upload.clone()
            {
                match upload.poll(cx) {
                    Poll::Ready(Some(Ok(frame))) => self.add(frame)?,
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Unsent::Upload)),
                    Poll::Ready(None) => self.finish(HeaderMap::new())?,
                    Poll::Pending => {}
                }
            }
            if self.is_written() {
                return if self.upload.is_some() { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            let written = ready!(self.write(stream, cx)).map_err(Unsent::Connection)?;
            if written == 0 {
                let error = io::ErrorKind::WriteZero.into();
                return Poll::Ready(Err(Unsent::Connection(error)));
            }
            self.wrote(written);
        }
    }

    fn write<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let text = &self.text[self.at..];
        if self.data.is_empty() && self.tail.is_empty() {
            return Pin::new(stream).poll_write(cx, text);
        }
        let all = [IoSlice::new(text), IoSlice::new(&self.data), IoSlice::new(self.tail)];
        Pin::new(stream).poll_write_vectored(cx, &all)
    }

    fn wrote(&mut self, written: usize) {
        self.written += written as u64;
        let of_text = written.min(self.text.len() - self.at);
        let of_data = (written - of_text).min(self.data.len());
        self.at += of_text;
        self.data.advance(of_data);
        self.tail = &self.tail[written - of_text - of_data..];
    }

    fn add(&mut self, frame: Frame<Bytes>) -> Result<(), Unsent> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.finish(frame.into_trailers().unwrap_or_default()),
        };
        self.forget_what_is_written();
        let length = data.len() as u64;
        match &mut self.length {
            // What is longer than it said would begin the next request.
            Length::Known(left) => {
                *left = left.checked_sub(length).ok_or(Unsent::Upload)?;
                if *left == 0 {
                    self.upload = None;
                }
            }
            Length::Chunked(_) if length == 0 => {}
            Length::Chunked(_) => {
                self.text.extend_from_slice(format!("{length:x}\r\n").as_bytes());
                self.tail = b"\r\n";
            }
        }
        self.data = data;
        Ok(())
    }

    fn finish(&mut self, trailers: HeaderMap) -> Result<(), Unsent> {
        self.forget_what_is_written();
        self.upload = None;
        let announced = match &mut self.length {
            Length::Known(0) => return Ok(()),
            Length::Known(_) => return Err(Unsent::Upload),
            Length::Chunked(announced) => std::mem::take(announced),
        };
        self.text.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.iter().filter(|(name, _)| announced.contains(name)) {
            self.field(name.as_str().as_bytes(), value.as_bytes());
        }
        self.text.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn forget_what_is_written(&mut self) {
        if self.at == self.text.len() {
            self.text.clear();
            self.at = 0;
        }
    }
}

/// Methods whose requests say that their body is empty (RFC 9110 section 8.6).
fn means_a_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Trailers that a request announces; none that could change where it goes, who sent it, or how
/// long it is (RFC 9110 section 6.5.1).
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    let never = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, AUTHORIZATION, COOKIE];
    names
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .filter(|name| !never.contains(name) && !name.as_str().starts_with("x-forwarded-"))
        .collect()
}
