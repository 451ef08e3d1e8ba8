//! What strings must look like: names, hosts, paths, signals, capabilities and the like.
//!
//! A [`Format`] is a check with a name; the grammar says which field has which. Every check says
//! what is wrong, which part of the string, and what to write. Longer grammars have their own
//! file: `image`, `cron`.

use std::ops::Range;

use super::suggest::closest;
use super::{capabilities, cron, http, image};
use crate::name::Name;
use crate::schedule;

/// A kind of string.
#[derive(Debug)]
pub struct Format {
    /// The code of the problem when a string is not one.
    pub code: &'static str,
    /// For use after "expected".
    pub noun: &'static str,
    /// Several of them.
    pub plural: &'static str,
    /// A regular expression that every good string matches, for editors; empty for any.
    pub pattern: &'static str,
    /// Says what is wrong with a string.
    pub(super) check: fn(&str) -> Result<(), Complaint>,
}

/// What is wrong with a string.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) message: String,
    /// The bytes that are wrong; all of them when absent.
    pub(super) at: Option<Range<usize>>,
    pub(super) help: Option<String>,
}

impl Complaint {
    pub(super) fn new(message: impl Into<String>) -> Complaint {
        Complaint { message: message.into(), at: None, help: None }
    }

    pub(super) fn at(mut self, at: Range<usize>) -> Complaint {
        self.at = Some(at);
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Complaint {
        self.help = Some(help.into());
        self
    }
}

macro_rules! formats {
    ($($name:ident $code:literal $noun:literal $plural:literal
        $pattern:literal $check:path;)*) => {$(
        pub(super) static $name: Format = Format {
            code: $code, noun: $noun, plural: $plural, pattern: $pattern, check: $check,
        };
    )*};
}

formats! {
    NAME "invalid-name" "a name" "names" "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$" name;
    WORD "empty-string" "a string" "strings" "" word;
    IMAGE "invalid-image" "an image reference" "image references" "" image::check;
    EMAIL "invalid-email" "an e-mail address" "e-mail addresses" "^[^@\\s]+@[^@\\s]+$" email;
    ENV_NAME "invalid-env-name" "a variable's name" "variable names"
        "^[A-Za-z_][A-Za-z0-9_]*$" env_name;
    MOUNT_PATH "invalid-path" "an absolute path in the container" "absolute paths" "^/." mount_path;
    HTTP_PATH "invalid-path" "a path that starts with `/`" "paths" "^/" http_path;
    ROUTE_PATH "invalid-path" "a path that starts with `/`" "paths" "^/[^?#\\s]*$" route_path;
    HOST "invalid-host" "a host name" "host names" "^[a-z0-9.-]+$" host;
    REDIRECT "invalid-url" "a URL" "URLs" "^(https?://|/)" redirect;
    NETWORK "invalid-network" "a network like \"192.0.2.0/24\"" "networks"
        "^[0-9a-fA-F.:]+(/[0-9]+)?$" http::network;
    HEADER_NAME "invalid-header" "a header's name" "header names" "" http::header_name;
    HEADER_VALUE "invalid-header" "a header's value" "header values" "^[ -~]*$" http::header_value;
    LOGIN "invalid-login" "a name" "names" "^[^:]+$" http::login;
    PASSWORD_HASH "invalid-hash" "a bcrypt hash" "bcrypt hashes" "^[$]2[aby][$]" http::password_hash;
    DIRECTORY "invalid-url" "a URL that starts with `https://`" "URLs" "^https://" http::directory;
    CERTIFICATE "invalid-certificate" "a certificate in PEM" "certificates in PEM"
        "^-----BEGIN CERTIFICATE-----" http::certificate;
    SIGNAL "unknown-signal" "a signal like \"SIGTERM\"" "signals" "^SIG" signal;
    CAPABILITY "unknown-capability" "a Linux capability" "Linux capabilities"
        "^[A-Z_]+$" capability;
    USER "invalid-user" "a user" "users" "^[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?$" user;
    LABEL "invalid-label" "a label's name" "label names"
        "^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$" label;
    LABEL_VALUE "invalid-label" "a label's value" "label values"
        "^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$" label;
    SCHEDULE "invalid-schedule" "a cron expression" "cron expressions" "" cron::check;
    TIME_ZONE "invalid-time-zone" "a time zone like \"Europe/Berlin\"" "time zones"
        "^[A-Za-z][A-Za-z0-9+_/-]*$" time_zone;
}

fn name(text: &str) -> Result<(), Complaint> {
    let Err(bad) = text.parse::<Name>() else { return Ok(()) };
    let close: String = text.to_lowercase().replace(['_', '.', ' ', '/'], "-");
    let close = close.trim_matches('-');
    let (mut message, rule) = bad_name_sentence(&bad.to_string());
    if text.is_empty() {
        message = "this name is empty".to_owned();
    }
    let complaint = Complaint::new(message);
    Err(match close.parse::<Name>() {
        Ok(close) => complaint.help(format!("write `{close}`: {rule}")),
        Err(_) => complaint.help(rule),
    })
}

/// Splits "what; use this" so that the advice can stand apart.
fn bad_name_sentence(sentence: &str) -> (String, String) {
    let (what, advice) = sentence.split_once("; ").unwrap_or((sentence, ""));
    (what.to_owned(), advice.to_owned())
}

fn word(text: &str) -> Result<(), Complaint> {
    if text.is_empty() {
        Err(Complaint::new("this string is empty").help("write what it is to be, or leave it out"))
    } else {
        Ok(())
    }
}

fn email(text: &str) -> Result<(), Complaint> {
    let good = text.split_once('@').is_some_and(|(user, host)| {
        !user.is_empty() && !text.contains(char::is_whitespace) && host_names(host).is_ok()
    });
    if good {
        return Ok(());
    }
    Err(Complaint::new(format!("`{text}` is not an e-mail address"))
        .help("write one like `ops@example.com`"))
}

fn env_name(text: &str) -> Result<(), Complaint> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    if !text.is_empty() && text.bytes().all(allowed) && !digit {
        return Ok(());
    }
    Err(Complaint::new(format!("`{text}` cannot name an environment variable"))
        .help("use letters, digits and `_`, not starting with a digit"))
}

fn mount_path(text: &str) -> Result<(), Complaint> {
    let help = "write where it goes in the container, like `/var/lib/data`";
    if !text.starts_with('/') {
        let complaint = Complaint::new(format!("`{text}` is not an absolute path"));
        return Err(match text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            true => complaint.help(format!("write where it goes in the container: `/{text}`?")),
            false => complaint.help(help),
        });
    }
    if text.trim_matches('/').is_empty() {
        return Err(Complaint::new("the root of the container cannot be replaced").help(help));
    }
    if let Some(dots) = text.split('/').find(|part| *part == "." || *part == "..") {
        return Err(Complaint::new(format!("`{text}` has a `{dots}` in it")).help(help));
    }
    no_control(text)
}

fn no_control(text: &str) -> Result<(), Complaint> {
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, c)) => {
            Err(Complaint::new("there is a control character in this path")
                .at(at..at + c.len_utf8()))
        }
        None => Ok(()),
    }
}

fn http_path(text: &str) -> Result<(), Complaint> {
    if !text.starts_with('/') {
        return Err(Complaint::new(format!("the path `{text}` does not start with `/`"))
            .help(format!("write `/{}`", path_of_url(text))));
    }
    match text.char_indices().find(|(_, c)| c.is_whitespace() || c.is_control()) {
        Some((at, c)) => Err(Complaint::new(format!("there is a blank in the path `{text}`"))
            .at(at..at + c.len_utf8())
            .help("write a blank as `%20`")),
        None => Ok(()),
    }
}

fn path_of_url(text: &str) -> &str {
    let rest =
        text.split_once("://").map_or(text, |(_, rest)| rest.split_once('/').unwrap_or(("", "")).1);
    rest.trim_start_matches(['.', '*'])
}

fn route_path(text: &str) -> Result<(), Complaint> {
    let sign = text.find(['?', '#', '*']);
    if !text.starts_with('/') {
        let below = path_of_url(text).split(['?', '#', '*']).next().unwrap_or_default();
        return Err(Complaint::new(format!("the path `{text}` does not start with `/`"))
            .help(format!("write `/{below}`: everything below it matches")));
    }
    http_path(text)?;
    if let Some(at) = sign {
        let sign = &text[at..=at];
        return Err(Complaint::new(format!(
            "a route's path is a prefix and cannot have `{sign}` in it"
        ))
        .at(at..at + 1)
        .help(format!("write `{}`: everything below it matches", &text[..at])));
    }
    if let Some(at) = text.find("//") {
        return Err(Complaint::new("there is an empty part in this path").at(at..at + 2));
    }
    plain_path(text)
}

/// Requests are compared with it after they were decoded and their dots resolved, so that one
/// spelling means one path.
fn plain_path(text: &str) -> Result<(), Complaint> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~!$&'()+,;=:@".contains(c);
    if let Some((at, c)) = text.char_indices().find(|(_, c)| !plain(*c)) {
        return Err(Complaint::new(format!("a route's path cannot have `{c}` in it"))
            .at(at..at + c.len_utf8())
            .help("route by a part before it: everything below that matches"));
    }
    match text.split('/').any(|part| part == "." || part == "..") {
        true => Err(Complaint::new("a part of this path is `.` or `..`")
            .help("write the path that it leads to")),
        false => Ok(()),
    }
}

fn host(text: &str) -> Result<(), Complaint> {
    let complain = |what: &str| Complaint::new(format!("`{text}` {what}"));
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or(rest);
        return Err(complain("is a URL, not a host name").help(format!("write `{host}`")));
    }
    if let Some(at) = text.find(['/', ':']) {
        let what = if text[at..].starts_with(':') {
            "names a port; HTTP routes are served on 80 and 443"
        } else {
            "has a path in it; that goes to `path`"
        };
        return Err(complain(what).at(at..text.len()).help(format!("write `{}`", &text[..at])));
    }
    if text.contains('*') {
        return Err(complain("has a wildcard in it").help("write one route for each host"));
    }
    if text.contains(|c: char| c.is_ascii_uppercase()) {
        let lower = text.to_ascii_lowercase();
        return Err(complain("has capital letters in it").help(format!("write `{lower}`")));
    }
    host_names(text).map_err(|label| {
        let help = "use lower-case letters, digits and hyphens, in parts joined by dots";
        let complaint = complain("is not a host name").help(help);
        match text.find(label).filter(|_| !label.is_empty()) {
            Some(at) if label != text => complaint.at(at..at + label.len()),
            _ => complaint,
        }
    })
}

/// The first label that is not one (RFC 1123, section 2.1).
fn host_names(text: &str) -> Result<(), &str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let good = |l: &&str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(allowed)
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    match text.split('.').find(|l| !good(l)) {
        Some(bad) => Err(bad),
        None if text.len() > 253 => Err(text),
        None => Ok(()),
    }
}

fn redirect(text: &str) -> Result<(), Complaint> {
    let absolute = ["https://", "http://"].iter().find_map(|s| text.strip_prefix(s));
    let good = absolute.map_or(text.starts_with('/'), |rest| !rest.is_empty());
    if good && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Complaint::new(format!("`{text}` is not a URL"))
        .help("write one like `https://www.example.com/`, or a path that starts with `/`"))
}

fn signal(text: &str) -> Result<(), Complaint> {
    if SIGNALS.contains(&text) {
        return Ok(());
    }
    let complaint = Complaint::new(format!("`{text}` is not a signal"));
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Err(match closest(&full, SIGNALS.iter().copied()) {
        Some(known) => complaint.help(format!("did you mean `{known}`?")),
        None => complaint.help("write one like `SIGTERM`, `SIGINT` or `SIGQUIT`"),
    })
}

/// signal(7): those by which an image can be asked to stop.
const SIGNALS: [&str; 14] = [
    "SIGABRT",
    "SIGALRM",
    "SIGCONT",
    "SIGHUP",
    "SIGINT",
    "SIGKILL",
    "SIGPIPE",
    "SIGQUIT",
    "SIGRTMIN+3",
    "SIGTERM",
    "SIGTRAP",
    "SIGUSR1",
    "SIGUSR2",
    "SIGWINCH",
];

fn capability(text: &str) -> Result<(), Complaint> {
    if capabilities::NAMES.contains(&text) || text == capabilities::ALL {
        return Ok(());
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let complaint = Complaint::new(format!("`{text}` is not a Linux capability"));
    Err(match closest(bare, capabilities::NAMES.iter().copied().chain([capabilities::ALL])) {
        Some(known) => complaint.help(format!("did you mean `{known}`?")),
        None => complaint.help("write one like `NET_ADMIN`, in capitals and without `CAP_`"),
    })
}

fn user(text: &str) -> Result<(), Complaint> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let part = |part: &str| !part.is_empty() && part.bytes().all(allowed);
    let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    if part(user) && group.is_none_or(part) {
        return Ok(());
    }
    Err(Complaint::new(format!("`{text}` is not a user"))
        .help("write a user, or a user and a group: `1000`, `app`, `1000:1000`"))
}

fn label(text: &str) -> Result<(), Complaint> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if bytes.len() <= 63
        && bytes.iter().all(|b| allowed(*b))
        && edge(bytes.first())
        && edge(bytes.last())
    {
        return Ok(());
    }
    let message = match text {
        "" => "nothing is in this part of a node's label".to_owned(),
        _ => format!("`{text}` cannot be in a node's label"),
    };
    Err(Complaint::new(message).help(
        "use up to 63 letters, digits, `.`, `_`, `-` and `/`, with a letter or digit at both ends",
    ))
}

fn time_zone(text: &str) -> Result<(), Complaint> {
    if schedule::zone(text).is_some() {
        return Ok(());
    }
    Err(Complaint::new(format!("`{text}` is not a time zone"))
        .help("write one from the IANA database, like `Europe/Berlin`, or `UTC`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::checker::matches;

    fn check(format: &Format, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!((format.check)(text), Ok(()), "{}: {text}", format.noun);
            assert!(matches(format.pattern, text), "{}: {text}", format.noun);
        }
        for text in bad {
            assert!((format.check)(text).is_err(), "{}: {text}", format.noun);
        }
    }

    #[test]
    fn each_format_tells_good_from_bad() {
        check(
            &HOST,
            &["a.example.com", "localhost", "xn--bcher-kva.example"],
            &[
                "",
                "a..b",
                "-a.example",
                "a_b.example",
                "*.example.com",
                "A.example",
                "a.example:80",
                "https://a.example",
                "a.example/x",
                "a.example.",
            ],
        );
        check(
            &ROUTE_PATH,
            &["/", "/api", "/api/v1/"],
            &[
                "", "api", "/a b", "/a?b", "/a#b", "/a/*", "//", "/a%20b", "/../b", "/.",
                "/\u{e4}", "/a\\b",
            ],
        );
        check(&HTTP_PATH, &["/", "/health?full=1"], &["", "health", "/a b"]);
        check(&MOUNT_PATH, &["/data", "/a b"], &["", "data", "/", "//", "/a/../b", "/a\n"]);
        check(&SIGNAL, &["SIGTERM", "SIGRTMIN+3"], &["", "TERM", "sigterm", "SIGSTOP", "15"]);
        check(&CAPABILITY, &["NET_ADMIN", "ALL"], &["", "CAP_NET_ADMIN", "net_admin", "ROOT"]);
        check(&USER, &["0", "app", "1000:1000", "app:www-data"], &["", ":1", "a:", "a:b:c", "a b"]);
        check(&LABEL, &["zone", "mill/zone", "a"], &["", "-a", "a-", "a b", &"x".repeat(64)]);
        check(
            &TIME_ZONE,
            &["UTC", "Europe/Berlin", "Etc/GMT+1", "America/Argentina/Salta"],
            &["", "Berlin", "+01:00", "Europe/"],
        );
        check(
            &EMAIL,
            &["ops@example.com"],
            &["", "ops", "@example.com", "a b@example.com", "ops@"],
        );
        check(
            &REDIRECT,
            &["https://a.example/x", "/login"],
            &["", "a.example", "https://", "ftp://a", "https://a.example/\u{e4}"],
        );
        check(&ENV_NAME, &["A", "_a1"], &["", "1A", "A-B", "A.B"]);
    }

    #[test]
    fn advice_is_something_that_passes() {
        let advice = |format: &Format, bad: &str| (format.check)(bad).unwrap_err().help.unwrap();
        assert!(advice(&HOST, "https://a.example/x").contains("`a.example`"));
        assert!(advice(&SIGNAL, "term").contains("`SIGTERM`"));
        assert!(advice(&CAPABILITY, "CAP_NET_ADMIN").contains("`NET_ADMIN`"));
        assert!(advice(&NAME, "Shop_DB").contains("`shop-db`"));
        assert!(advice(&HTTP_PATH, "http://localhost:80/ready").contains("`/ready`"));
    }
}
