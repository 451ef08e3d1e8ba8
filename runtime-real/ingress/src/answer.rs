//! Answers that an ingress gives by itself: a short page that says what happened, as text or as
//! HTML, with the request's id.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};

use crate::body::ReplyBody;
use crate::exchange::Exchange;

/// Whether whoever asks can show HTML.
pub(crate) fn accepts_html(request: &HeaderMap) -> bool {
    let accept = request.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// An answer that no backend gave.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    sentence: String,
    fields: Vec<(HeaderName, HeaderValue)>,
    /// The sentence alone is the page.
    bare: bool,
}

/// Where a request's id is.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl Answer {
    pub(crate) fn new(status: StatusCode, sentence: impl Into<String>) -> Answer {
        Answer { status, sentence: sentence.into(), fields: Vec::new(), bare: false }
    }

    pub(crate) fn bad_request(sentence: &str) -> Answer {
        Answer::new(StatusCode::BAD_REQUEST, sentence)
    }

    pub(crate) fn redirect(status: StatusCode, to: HeaderValue) -> Answer {
        Answer::new(status, "It is somewhere else.").with(LOCATION, to)
    }

    pub(crate) fn too_many(wait: Duration) -> Answer {
        let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
        let sentence = format!("Too many requests; the next one is welcome in {seconds} s.");
        Answer::new(StatusCode::TOO_MANY_REQUESTS, sentence).with(RETRY_AFTER, seconds.into())
    }

    pub(crate) fn who_are_you() -> Answer {
        let scheme = HeaderValue::from_static("Basic realm=\"restricted\", charset=\"UTF-8\"");
        Answer::new(StatusCode::UNAUTHORIZED, "A name and a password are needed.")
            .with(WWW_AUTHENTICATE, scheme)
    }

    pub(crate) fn no_replica() -> Answer {
        let sentence = "The service has no healthy replica at the moment.";
        Answer::new(StatusCode::SERVICE_UNAVAILABLE, sentence).with(RETRY_AFTER, 5.into())
    }

    /// What an ACME server asked for (RFC 8555 section 8.3), as it is.
    pub(crate) fn challenge(proof: String) -> Answer {
        Answer { status: StatusCode::OK, sentence: proof, fields: Vec::new(), bare: true }
    }

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Answer {
        self.fields.push((name, value));
        self
    }

    /// The answer as a page, in HTML or plain text.
    pub(crate) fn into_response(
        self,
        html: bool,
        id: &HeaderValue,
        exchange: Exchange,
    ) -> Response<ReplyBody> {
        exchange.answered(self.status.as_u16());
        let (page, kind) = match html && !self.bare {
            true => (self.html(id), HeaderValue::from_static("text/html; charset=utf-8")),
            false => (self.text(id), HeaderValue::from_static("text/plain; charset=utf-8")),
        };
        let mut response = Response::new(ReplyBody::page(Bytes::from(page), exchange));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, kind);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(REQUEST_ID, id.clone());
        headers.extend(self.fields);
        response
    }

    fn text(&self, id: &HeaderValue) -> String {
        if self.bare {
            return self.sentence.clone();
        }
        let id = id.to_str().unwrap_or_default();
        format!("{}\n{}\nRequest {id}\n", self.status, self.sentence)
    }

    fn html(&self, id: &HeaderValue) -> String {
        let id = id.to_str().unwrap_or_default();
        let status = self.status;
        let sentence = escape(&self.sentence);
        format!(
            "<!doctype html><meta charset=\"utf-8\"><title>{status}</title>\
             <style>body{{font:1rem/1.5 system-ui;max-width:36rem;margin:15vh auto;padding:0 1rem}}\
             small{{color:#666}}</style>\
             <h1>{status}</h1><p>{sentence}</p><small>Request {id}</small>\n"
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
