//! Docker's errors in core's terms: the one place where they are told apart.

use bollard::errors::Error;
use mill_core::container::{OpError, OpErrorKind};

/// An error of ours.
pub(super) fn error(kind: OpErrorKind, detail: impl Into<String>) -> OpError {
    OpError { kind, detail: detail.into() }
}

/// What an error of the engine means, and what to do.
pub(super) fn of(doing: &str, cause: &Error) -> OpError {
    match cause {
        Error::DockerResponseServerError { status_code, message } => {
            let (kind, detail) = told(*status_code, message);
            error(kind, format!("{doing}: {detail}"))
        }
        Error::DockerStreamError { error: message } => {
            let (kind, detail) = told(500, message);
            error(kind, format!("{doing}: {detail}"))
        }
        Error::RequestTimeoutError => {
            error(OpErrorKind::TimedOut, format!("{doing}: the engine did not answer in time"))
        }
        cause if is_unreachable(cause) => {
            let detail = "the container engine does not answer; is it running? `mill doctor` looks \
                          closer";
            error(OpErrorKind::EngineDown, format!("{doing}: {detail} ({})", chain(cause)))
        }
        cause => error(OpErrorKind::Other, format!("{doing}: {}", chain(cause))),
    }
}

/// Phrases of the engine (left) and what they mean; the first that occurs counts.
const PHRASES: &[(&str, OpErrorKind)] = &[
    ("no space left on device", OpErrorKind::DiskFull),
    ("pull access denied", OpErrorKind::RegistryRefused),
    ("unauthorized", OpErrorKind::RegistryRefused),
    ("no basic auth credentials", OpErrorKind::RegistryRefused),
    ("denied:", OpErrorKind::RegistryRefused),
    ("manifest unknown", OpErrorKind::ImageMissing),
    ("not found: manifest", OpErrorKind::ImageMissing),
    ("name unknown", OpErrorKind::ImageMissing),
    ("repository name not known", OpErrorKind::ImageMissing),
    ("no such image", OpErrorKind::ImageMissing),
    ("invalid reference format", OpErrorKind::ImageMissing),
    ("no such host", OpErrorKind::RegistryDown),
    ("connection refused", OpErrorKind::RegistryDown),
    ("i/o timeout", OpErrorKind::RegistryDown),
    ("tls handshake", OpErrorKind::RegistryDown),
    ("x509:", OpErrorKind::RegistryDown),
    ("server misbehaving", OpErrorKind::RegistryDown),
    ("received unexpected http status: 5", OpErrorKind::RegistryDown),
    ("client.timeout exceeded", OpErrorKind::RegistryDown),
    ("http response to https client", OpErrorKind::RegistryDown),
    ("executable file not found", OpErrorKind::Rejected),
    ("no such file or directory: unknown", OpErrorKind::Rejected),
    ("permission denied: unknown", OpErrorKind::Rejected),
    ("oci runtime create failed", OpErrorKind::Rejected),
    ("unable to find user", OpErrorKind::Rejected),
    ("invalid capability", OpErrorKind::Rejected),
    ("no such container", OpErrorKind::Gone),
];

/// What an answer of the engine means.
fn told(status: u16, message: &str) -> (OpErrorKind, String) {
    let lower = message.to_lowercase();
    let known = PHRASES.iter().find(|(phrase, _)| lower.contains(phrase)).map(|(_, kind)| *kind);
    let kind = known.unwrap_or(match status {
        400 => OpErrorKind::Rejected,
        404 => OpErrorKind::Gone,
        _ => OpErrorKind::Other,
    });
    let said = cleaned(message);
    (
        kind,
        match remedy(kind) {
            Some(remedy) => format!("{said}; {remedy}"),
            None => said,
        },
    )
}

fn remedy(kind: OpErrorKind) -> Option<&'static str> {
    match kind {
        OpErrorKind::DiskFull => Some("free space where the engine keeps its images"),
        OpErrorKind::RegistryRefused => Some(
            "check that the image's name is right and that `docker login` was done on this node \
             for its registry",
        ),
        OpErrorKind::ImageMissing => Some("check the image's name and tag, and that it was pushed"),
        OpErrorKind::RegistryDown => Some("check that this node can reach the registry"),
        OpErrorKind::Rejected => Some("check the service's command, user and capabilities"),
        OpErrorKind::EngineDown
        | OpErrorKind::PortTaken
        | OpErrorKind::Gone
        | OpErrorKind::Unhealthy
        | OpErrorKind::TimedOut
        | OpErrorKind::Other => None,
    }
}

/// The part of a message that is about the container and not about how runtimes are nested.
fn cleaned(message: &str) -> String {
    let start = ["starting container process caused: ", "container_linux.go:"];
    let mut text = message.trim();
    for marker in start {
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

/// An error and all its causes.
fn chain(cause: &dyn std::error::Error) -> String {
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

    #[test]
    fn what_engines_say_is_told_apart() {
        let cases = [
            (
                404,
                "manifest for localhost:5000/a:9 not found: manifest unknown: manifest unknown",
                OpErrorKind::ImageMissing,
            ),
            (
                404,
                "pull access denied for a, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
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
            (500, "write /var/lib/docker/tmp/x: no space left on device", OpErrorKind::DiskFull),
            (
                400,
                "OCI runtime create failed: runc create failed: unable to start container process: exec: \"/bin/nosuch\": stat /bin/nosuch: no such file or directory: unknown",
                OpErrorKind::Rejected,
            ),
            (404, "No such container: mill-web.0-abcd", OpErrorKind::Gone),
            (500, "something new", OpErrorKind::Other),
        ];
        for (status, message, kind) in cases {
            assert_eq!(told(status, message).0, kind, "{message}");
        }
    }
}
