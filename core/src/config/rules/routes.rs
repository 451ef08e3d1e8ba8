//! What the fields of one route mean together.

use super::Rules;
use crate::config::model::{RouteMatch, RouteSpec};
use crate::config::path::join;
use crate::config::problem::Problem;

/// Fields that a TCP route cannot have.
const HTTP_ONLY: [&str; 16] = [
    "path",
    "strip_prefix",
    "websocket",
    "timeout",
    "max_body",
    "redirect",
    "tls",
    "hold",
    "allow",
    "rate_limit",
    "burst",
    "basic_auth",
    "request_headers",
    "response_headers",
    "maintenance",
    "h2c",
];

pub(super) fn check(rules: &mut Rules<'_>, path: &str, route: &RouteSpec) {
    let (host, listen) = (join(path, "host"), join(path, "listen"));
    if rules.written(&listen) {
        for field in HTTP_ONLY {
            let at = join(path, field);
            if rules.written(&at) {
                let note = rules.at(&listen);
                let what = format!("`{field}` means nothing on a TCP route");
                rules.push(
                    Problem::new("contradiction", rules.at(&at), what)
                        .note(note, "`listen` makes it one")
                        .help(format!("leave out `{field}` or `listen`")),
                );
            }
        }
    } else if !rules.written(&host) {
        let what = format!("`{path}` has neither `host` nor `listen`");
        rules.push(
            Problem::new("missing-field", rules.at(path), what)
                .help("add `host = \"shop.example.com\"` for HTTP, or `listen = 5432` for TCP"),
        );
    }
    if let RouteMatch::Tcp { listen: 80 | 443, .. } = route.accept {
        rules.push(
            Problem::new("reserved-port", rules.at(&listen), "ports 80 and 443 serve HTTP routes")
                .help("write `host` for an HTTP route, or listen on another port"),
        );
    }
    let (hold, burst) = (join(path, "hold"), join(path, "burst"));
    if route.hold > RouteSpec::LONGEST_HOLD {
        rules.push(
            Problem::new("out-of-range", rules.at(&hold), "requests are held for a minute at most")
                .help("write up to \"1m\"; clients give up before long"),
        );
    }
    if rules.written(&burst) && !rules.written(&join(path, "rate_limit")) {
        rules.push(
            Problem::new("missing-field", rules.at(&burst), "`burst` without `rate_limit`")
                .help("add `rate_limit = 100`, or leave out `burst`"),
        );
    }
}
