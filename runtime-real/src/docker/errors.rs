//! Docker's errors in core's terms: the one place where they are told apart.

use bollard::errors::Error;
use mill_core::container::{OpError, OpErrorKind};

/// An error of ours.
pub(super) fn error(kind: OpErrorKind, detail: impl Into<String>) -> OpError {
    OpError { kind, detail: detail.into() }
}

/// The engine took too long.
pub(super) fn silent(doing: &str) -> OpError {
    let detail = format!(
        "{doing}: the engine did not answer in time; it may be overloaded or stuck, `mill doctor` \
         looks closer"
    );
    error(OpErrorKind::TimedOut, detail)
}

/// What an error of the engine about a container means, and what to do.
pub(super) fn of(doing: &str, cause: &Error) -> OpError {
    mean(doing, cause, CONTAINERS, OpErrorKind::Gone)
}

/// What an error of the engine about an image means, and what to do.
pub(super) fn of_image(doing: &str, cause: &Error) -> OpError {
    mean(doing, cause, IMAGES, OpErrorKind::ImageMissing)
}

/// `absent` is what 404 means.
fn mean(doing: &str, cause: &Error, phrases: &[Phrase], absent: OpErrorKind) -> OpError {
    match cause {
        Error::DockerResponseServerError { status_code, message } => {
            told(doing, *status_code, message, phrases, absent)
        }
        Error::DockerStreamError { error: message } => told(doing, 500, message, phrases, absent),
        Error::RequestTimeoutError => silent(doing),
        cause if is_unreachable(cause) => {
            let why = root(cause);
            let detail = format!(
                "{doing}: the container engine does not answer ({why}); is it running? `mill \
                 doctor` looks closer"
            );
            error(OpErrorKind::EngineDown, detail)
        }
        cause => error(OpErrorKind::Other, format!("{doing}: {}", chain(cause))),
    }
}

/// What the engine says in lower case, what it means, and what to do about it.
type Phrase = (&'static str, OpErrorKind, &'static str);

const FREE_SPACE: Phrase = (
    "no space left on device",
    OpErrorKind::DiskFull,
    "free space where the engine keeps its images and containers",
);
const LOG_IN: &str = "check that the image's name is right and that `docker login` was done on \
                      this node for its registry";
const CHECK_NAME: &str = "check the image's name and tag, and that it was pushed";
const CHECK_WAY: &str = "check that this node can reach the registry";
const CHECK_COMMAND: &str =
    "check the service's command: it must name a program that is in the image";

/// About images and registries; the first that occurs counts.
const IMAGES: &[Phrase] = &[
    FREE_SPACE,
    ("invalid reference format", OpErrorKind::ImageMissing, "write it as registry/name:tag"),
    ("manifest unknown", OpErrorKind::ImageMissing, CHECK_NAME),
    ("not found: manifest", OpErrorKind::ImageMissing, CHECK_NAME),
    ("name unknown", OpErrorKind::ImageMissing, CHECK_NAME),
    ("repository name not known", OpErrorKind::ImageMissing, CHECK_NAME),
    ("no such image", OpErrorKind::ImageMissing, CHECK_NAME),
    ("no matching manifest", OpErrorKind::ImageMissing, "push it for this node's architecture too"),
    ("toomanyrequests", OpErrorKind::RegistryDown, "the registry limits pulls; log in, or wait"),
    ("no such host", OpErrorKind::RegistryDown, CHECK_WAY),
    ("connection refused", OpErrorKind::RegistryDown, CHECK_WAY),
    ("connection reset", OpErrorKind::RegistryDown, CHECK_WAY),
    ("no route to host", OpErrorKind::RegistryDown, CHECK_WAY),
    ("network is unreachable", OpErrorKind::RegistryDown, CHECK_WAY),
    ("i/o timeout", OpErrorKind::RegistryDown, CHECK_WAY),
    ("tls handshake", OpErrorKind::RegistryDown, CHECK_WAY),
    (
        "x509:",
        OpErrorKind::RegistryDown,
        "give the registry a certificate that this node trusts, or the engine its CA in \
         /etc/docker/certs.d",
    ),
    ("server misbehaving", OpErrorKind::RegistryDown, CHECK_WAY),
    ("unexpected http status: 5", OpErrorKind::RegistryDown, "look at the registry's own log"),
    ("deadline exceeded", OpErrorKind::RegistryDown, CHECK_WAY),
    ("client.timeout exceeded", OpErrorKind::RegistryDown, CHECK_WAY),
    ("unexpected eof", OpErrorKind::RegistryDown, CHECK_WAY),
    (
        "http response to https client",
        OpErrorKind::RegistryDown,
        "give the registry TLS, or list it under `insecure-registries` in the engine's config",
    ),
    ("unauthorized", OpErrorKind::RegistryRefused, LOG_IN),
    ("no basic auth credentials", OpErrorKind::RegistryRefused, LOG_IN),
    ("denied", OpErrorKind::RegistryRefused, LOG_IN),
    ("forbidden", OpErrorKind::RegistryRefused, LOG_IN),
];

/// About containers; the first that occurs counts.
const CONTAINERS: &[Phrase] = &[
    FREE_SPACE,
    ("no such image", OpErrorKind::ImageMissing, CHECK_NAME),
    ("no such container", OpErrorKind::Gone, ""),
    ("is not running", OpErrorKind::Unhealthy, ""),
    ("is paused", OpErrorKind::Unhealthy, "`docker unpause` lets it go on"),
    (
        "unable to find user",
        OpErrorKind::Rejected,
        "check the service's user: it must be in the image's /etc/passwd, or be a number",
    ),
    (
        "unable to find group",
        OpErrorKind::Rejected,
        "check the group in the service's user: it must be in the image's /etc/group, or a number",
    ),
    ("capability", OpErrorKind::Rejected, "check the service's cap_add and cap_drop"),
    ("minimum memory limit", OpErrorKind::Rejected, "raise the service's memory"),
    ("range of cpus", OpErrorKind::Rejected, "set the service's cpu within it"),
    ("mount path", OpErrorKind::Rejected, "write absolute paths in the service's tmpfs"),
    ("invalid mount", OpErrorKind::Rejected, "write absolute paths in the service's tmpfs"),
    ("invalid signal", OpErrorKind::Rejected, "check the service's stop signal"),
    ("no command specified", OpErrorKind::Rejected, "the image has none: give the service one"),
    ("executable file not found", OpErrorKind::Rejected, CHECK_COMMAND),
    ("exec: ", OpErrorKind::Rejected, CHECK_COMMAND),
    ("exec format error", OpErrorKind::Rejected, "the image is for another architecture"),
    (
        "oci runtime create failed",
        OpErrorKind::Rejected,
        "check the service's command, user, capabilities and tmpfs",
    ),
];

/// What an answer of the engine means.
fn told(
    doing: &str,
    status: u16,
    message: &str,
    phrases: &[Phrase],
    absent: OpErrorKind,
) -> OpError {
    let lower = message.to_lowercase();
    let known = phrases.iter().find(|(phrase, ..)| lower.contains(phrase));
    let otherwise = match status {
        400 => OpErrorKind::Rejected,
        404 => absent,
        _ => OpErrorKind::Other,
    };
    let (kind, remedy) = known.map_or((otherwise, ""), |(_, kind, remedy)| (*kind, *remedy));
    let said = cleaned(message);
    let detail = match remedy {
        "" => format!("{doing}: {said}"),
        remedy => format!("{doing}: {said}; {remedy}"),
    };
    error(kind, detail)
}

/// The part of a message that is about the container and not about how runtimes are nested.
pub(super) fn cleaned(message: &str) -> String {
    let nested = [
        "starting container process caused: ",
        "unable to start container process: ",
        "container_linux.go:",
    ];
    let mut text = message.trim();
    for marker in nested {
        if let Some(at) = text.rfind(marker) {
            text = &text[at + marker.len()..];
        }
    }
    text.trim_end_matches(": unknown").trim_end_matches(": unknown\"").trim().to_owned()
}

fn is_unreachable(cause: &Error) -> bool {
    matches!(
        cause,
        Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. }
            | Error::SocketNotFoundError(_)
    )
}

/// The innermost cause: the one that the kernel named.
fn root(cause: &dyn std::error::Error) -> String {
    let mut innermost = cause;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    innermost.to_string()
}

/// An error and all its causes.
pub(super) fn chain(cause: &dyn std::error::Error) -> String {
    let mut text = cause.to_string();
    let mut source = cause.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(&format!(": {inner_text}"));
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(phrases: &[Phrase], absent: OpErrorKind, cases: &[(u16, &str, OpErrorKind)]) {
        for (status, message, kind) in cases {
            let found = told("doing", *status, message, phrases, absent);
            assert_eq!(found.kind, *kind, "{message}");
        }
    }

    #[test]
    fn what_engines_say_of_images_is_told_apart() {
        let cases = [
            (
                404,
                "manifest for localhost:5000/a:9 not found: manifest unknown: manifest unknown",
                OpErrorKind::ImageMissing,
            ),
            (
                404,
                "pull access denied for a, repository does not exist or may require 'docker \
                 login': denied: requested access to the resource is denied",
                OpErrorKind::RegistryRefused,
            ),
            (
                500,
                "Head \"https://r.example/v2/a/manifests/1\": denied",
                OpErrorKind::RegistryRefused,
            ),
            (
                500,
                "Head \"http://localhost:5000/v2/a/manifests/1\": no basic auth credentials",
                OpErrorKind::RegistryRefused,
            ),
            (
                500,
                "Get \"https://r.example/v2/\": dial tcp: lookup r.example: no such host",
                OpErrorKind::RegistryDown,
            ),
            (
                500,
                "Get \"http://localhost:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                OpErrorKind::RegistryDown,
            ),
            (
                500,
                "Get \"https://r.example/v2/\": x509: certificate signed by unknown authority",
                OpErrorKind::RegistryDown,
            ),
            (500, "write /var/lib/docker/tmp/x: no space left on device", OpErrorKind::DiskFull),
            (404, "something new", OpErrorKind::ImageMissing),
            (500, "something new", OpErrorKind::Other),
        ];
        check(IMAGES, OpErrorKind::ImageMissing, &cases);
    }

    #[test]
    fn what_engines_say_of_containers_is_told_apart() {
        let cases = [
            (
                400,
                "OCI runtime create failed: runc create failed: unable to start container \
                 process: exec: \"/bin/nosuch\": stat /bin/nosuch: no such file or directory: \
                 unknown",
                OpErrorKind::Rejected,
            ),
            (
                403,
                "OCI runtime create failed: runc create failed: unable to start container \
                 process: exec: \"/etc/passwd\": permission denied: unknown",
                OpErrorKind::Rejected,
            ),
            (404, "No such container: mill-web.0-abcd", OpErrorKind::Gone),
            (404, "No such image: web@sha256:00", OpErrorKind::ImageMissing),
            (
                409,
                "container 0a1b is paused, unpause the container before exec",
                OpErrorKind::Unhealthy,
            ),
            (
                500,
                "connection error: desc = \"transport: dial unix: connect: connection refused\"",
                OpErrorKind::Other,
            ),
            (500, "mkdir /var/lib/docker/x: no space left on device", OpErrorKind::DiskFull),
        ];
        check(CONTAINERS, OpErrorKind::Gone, &cases);
    }
}
