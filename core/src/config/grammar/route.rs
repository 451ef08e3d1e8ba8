//! The part of the table that says what a route is made of.

use serde_json::json;

use super::fields::{ANY_TIME, OFF, SOME_TIME, field, optional};
use super::{Kind, MOST_REQUESTS, Presence, Section};
use crate::config::format;
use crate::config::model::RouteSpec;
use crate::units::Bytes;

const HEADERS: Kind = Kind::Map(&format::HEADER_NAME, &Kind::Text(&format::HEADER_VALUE));

pub(super) static ROUTE: Section = Section {
    path: "service.NAME.route",
    doc: "HTTP requests for `host` below `path`, or TCP connections to `listen`.",
    fields: &[
        optional(
            "host",
            Kind::Text(&format::HOST),
            "\"shop.example.com\"",
            "Requests for this host. With `listen`, TLS connections for this name.",
        ),
        field(
            "path",
            Kind::Text(&format::ROUTE_PATH),
            Presence::Default(|| json!("/")),
            "\"/api\"",
            "Requests whose path starts with this; the longest one wins.",
        ),
        optional(
            "listen",
            Kind::Integer(1, 65535),
            "5432",
            "TCP connections to this port of every node, in place of requests. With `host`, those \
             that are TLS for that name, which are passed on as they are.",
        ),
        field(
            "strip_prefix",
            Kind::Boolean,
            OFF,
            "true",
            "Take `path` away from the request's path before forwarding.",
        ),
        field("websocket", Kind::Boolean, OFF, "true", "Allow WebSocket upgrades."),
        optional(
            "timeout",
            SOME_TIME,
            "\"30s\"",
            "For the whole request, from its first byte to the last of the answer.",
        ),
        optional("max_body", Kind::Size(Bytes(0)), "\"10MiB\"", "The largest request body."),
        optional(
            "redirect",
            Kind::Text(&format::REDIRECT),
            "\"https://www.example.com/\"",
            "Answer with a redirect to this URL in place of forwarding.",
        ),
        field(
            "tls",
            Kind::Boolean,
            OFF,
            "true",
            "Serve HTTPS with a certificate that Mill orders and renews.",
        ),
        field(
            "hold",
            ANY_TIME,
            Presence::Default(|| json!(RouteSpec::HOLD.to_string())),
            "\"5s\"",
            "How long a request waits while no replica is healthy; at most a minute.",
        ),
        optional(
            "allow",
            Kind::List(&Kind::Text(&format::NETWORK), true),
            "[\"192.0.2.0/24\", \"2001:db8::/32\"]",
            "Only clients of these networks are let in; others are answered 403.",
        ),
        optional(
            "rate_limit",
            Kind::Integer(1, MOST_REQUESTS),
            "100",
            "Requests each second from one address, in the long run and on each node; 429 above \
             that.",
        ),
        optional(
            "burst",
            Kind::Integer(1, MOST_REQUESTS),
            "200",
            "Requests at once from one address, where `rate_limit` is set; as many as that if it is \
             not written.",
        ),
        optional(
            "basic_auth",
            Kind::Map(&format::LOGIN, &Kind::Text(&format::PASSWORD_HASH)),
            "{ ops = \"$2y$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy\" }",
            "Who may come, and the bcrypt hashes of their passwords, as `htpasswd -nB` prints them.",
        ),
        optional(
            "request_headers",
            HEADERS,
            "{ X-Env = \"prod\", X-Debug = \"\" }",
            "Headers that requests have when they are passed on; an empty value removes one.",
        ),
        optional(
            "response_headers",
            HEADERS,
            "{ Strict-Transport-Security = \"max-age=31536000\" }",
            "Headers that answers have when they are passed back; an empty value removes one.",
        ),
        optional(
            "maintenance",
            Kind::Text(&format::WORD),
            "\"We are back at noon.\"",
            "Answer every request 503 with this text in place of forwarding.",
        ),
        field(
            "h2c",
            Kind::Boolean,
            OFF,
            "true",
            "Replicas speak HTTP/2 without TLS, as gRPC servers do.",
        ),
    ],
};
