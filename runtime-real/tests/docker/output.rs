//! What containers print.

use futures_util::StreamExt as _;
use mill_core::container::OpErrorKind;
use mill_core::name::AllocId;
use mill_runtime_real::docker::{LogLine, LogOptions, LogStream};
use tokio::time::timeout;

use crate::support::{Host, PATIENCE, refused};

async fn all(host: &Host, alloc: &AllocId, options: LogOptions) -> Vec<LogLine> {
    let lines = host.engine.logs(alloc.clone(), options).map(Result::unwrap).collect();
    timeout(PATIENCE, lines).await.expect("the output ends")
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[tokio::test]
async fn output_is_read_from_its_end_its_beginning_or_a_moment() {
    let Some(host) = Host::start() else { return };
    // An engine reads the two streams by themselves: it has to have seen one before the next.
    let script = "echo one; sleep 2; echo two >&2; sleep 2; echo three; busybox printf four";
    let spec = host.spec("said.0-a", script).await;
    host.begin(spec.clone()).await.unwrap();
    host.exit_of(&spec.alloc).await;
    let alloc = &spec.alloc;
    let lines = all(&host, alloc, LogOptions::default()).await;
    assert_eq!(texts(&lines), ["one", "two", "three", "four"]);
    let streams: Vec<LogStream> = lines.iter().map(|line| line.stream).collect();
    use LogStream::{Stderr, Stdout};
    assert_eq!(streams, [Stdout, Stderr, Stdout, Stdout]);
    assert!(lines.is_sorted_by_key(|line| line.at), "{lines:?}");
    let now = mill_runtime_real::clock::wall().0;
    assert!(lines[0].at > now - 120_000 && lines[3].at <= now, "{lines:?} at {now}");

    assert_eq!(host.tail(alloc, 2).await.unwrap(), ["three", "four"]);
    assert_eq!(host.tail(alloc, 0).await.unwrap(), Vec::<String>::new());
    let since = LogOptions { since: Some(lines[2].at), ..LogOptions::default() };
    assert_eq!(texts(&all(&host, alloc, since).await), ["three", "four"]);
}

#[tokio::test]
async fn a_long_line_is_cut_and_those_after_it_are_whole() {
    let Some(host) = Host::start() else { return };
    let script = "busybox head -c 100000 /dev/zero | busybox tr '\\0' x; echo; echo next; \
                  busybox head -c 40000 /dev/zero | busybox tr '\\0' y";
    let spec = host.spec("long.0-a", script).await;
    host.begin(spec.clone()).await.unwrap();
    host.exit_of(&spec.alloc).await;
    let lines = host.tail(&spec.alloc, 100).await.unwrap();
    assert_eq!(lines.len(), 3, "{:?}", lines.iter().map(String::len).collect::<Vec<_>>());
    assert!(lines[0].len() > 15_000 && lines[0].bytes().all(|byte| byte == b'x'));
    assert_eq!(lines[1], "next");
    assert!(lines[2].len() > 15_000 && lines[2].bytes().all(|byte| byte == b'y'));
}

#[tokio::test]
async fn output_is_followed_until_the_container_ends() {
    let Some(host) = Host::start() else { return };
    let script = "echo before; while [ ! -e /go ]; do sleep 0.02; done; echo after; exit 1";
    let spec = host.spec("follow.0-a", script).await;
    host.begin(spec.clone()).await.unwrap();
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut lines = Box::pin(host.engine.logs(spec.alloc.clone(), options));
    let mut next = async || {
        let line = timeout(PATIENCE, lines.next()).await.expect("a line comes, or the end");
        line.map(|line| line.unwrap().text)
    };
    assert_eq!(next().await.as_deref(), Some("before"));
    host.docker(&["exec", "mill-follow.0-a", "sh", "-c", "echo > /go"]);
    assert_eq!(next().await.as_deref(), Some("after"));
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn the_output_of_a_container_that_is_not_there_is_gone() {
    let Some(host) = Host::start() else { return };
    let alloc = AllocId::known("nobody.0-a");
    refused(host.tail(&alloc, 5).await, OpErrorKind::Gone, &["nobody.0-a"]);
    let mut lines = Box::pin(host.engine.logs(alloc, LogOptions::default()));
    refused(lines.next().await.unwrap(), OpErrorKind::Gone, &["nobody.0-a"]);
}
