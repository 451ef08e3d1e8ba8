//! What containers print, line by line, with the engine's own timestamps.

use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures_util::{Stream, StreamExt as _, stream};
use mill_core::container::OpError;
use mill_core::name::AllocId;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::observe::nanos;
use super::{Engine, errors, name};

/// The most of a line that is kept; the rest of it is dropped.
const LINE_BYTES: usize = 16 << 10;
/// Reading the end of the output takes no longer.
const TAIL_WITHIN: Duration = Duration::from_secs(5);

/// Which lines.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Also what is printed from now on.
    pub follow: bool,
    /// At most this many of those printed before.
    pub tail: Option<u32>,
    /// Not older than this, in milliseconds since 1970.
    pub since: Option<u64>,
}

/// A line that a container printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Where to.
    pub stream: LogStream,
    /// What, without the end of the line.
    pub text: String,
}

/// Where a line was printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Engine {
    /// The lines of an alloc's container, oldest first.
    pub fn logs(
        &self,
        alloc: AllocId,
        options: LogOptions,
    ) -> impl Stream<Item = Result<LogLine, OpError>> + Send + use<> {
        let engine = self.clone();
        let opened = async move {
            match engine.docker().await {
                Ok(docker) => lines(docker, alloc, options),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            }
        };
        stream::once(opened).flatten()
    }

    /// The last lines of an alloc's container.
    pub(super) async fn tail(
        &self,
        docker: &Docker,
        alloc: &AllocId,
        count: u32,
    ) -> Result<Vec<String>, OpError> {
        let options = LogOptions { tail: Some(count), ..LogOptions::default() };
        let mut from = lines(docker.clone(), alloc.clone(), options);
        let mut last = Vec::new();
        let reading = async {
            while let Some(line) = from.next().await {
                last.push(line?.text);
            }
            Ok(())
        };
        // What was read until then is as good.
        timeout(TAIL_WITHIN, reading).await.unwrap_or(Ok(()))?;
        Ok(last)
    }
}

type Lines = Pin<Box<dyn Stream<Item = Result<LogLine, OpError>> + Send>>;

fn lines(docker: Docker, alloc: AllocId, options: LogOptions) -> Lines {
    let wanted = LogsOptions {
        follow: options.follow,
        stdout: true,
        stderr: true,
        timestamps: true,
        // Docker knows whole seconds only; what is too old is dropped below.
        since: options.since.map_or(0, |at| i32::try_from(at / 1000).unwrap_or(i32::MAX)),
        tail: options.tail.map_or_else(|| "all".to_owned(), |count| count.to_string()),
        ..LogsOptions::default()
    };
    let doing = format!("reading the output of {alloc}");
    let from = options.since.unwrap_or(0);
    let chunks = docker.logs(&name(&alloc), Some(wanted));
    let mut cutters = [Cutter::default(), Cutter::default()];
    let chunks = chunks.map(Some).chain(stream::once(async { None }));
    let lines = chunks.flat_map(move |chunk| {
        let found = match chunk {
            Some(Ok(chunk)) => cut(&mut cutters, chunk).into_iter().map(Ok).collect(),
            Some(Err(cause)) => vec![Err(errors::of(&doing, &cause))],
            None => rests(&mut cutters).into_iter().map(Ok).collect(),
        };
        stream::iter(found)
    });
    lines
        .filter(move |line| {
            let wanted = line.as_ref().map_or(true, |line| line.at >= from);
            std::future::ready(wanted)
        })
        .boxed()
}

/// Puts lines together that come in pieces.
#[derive(Default)]
struct Cutter {
    rest: Vec<u8>,
}

fn cut(cutters: &mut [Cutter; 2], chunk: LogOutput) -> Vec<LogLine> {
    let (stream, message) = match chunk {
        LogOutput::StdErr { message } => (LogStream::Stderr, message),
        LogOutput::StdOut { message }
        | LogOutput::Console { message }
        | LogOutput::StdIn { message } => (LogStream::Stdout, message),
    };
    let cutter = match stream {
        LogStream::Stdout => &mut cutters[0],
        LogStream::Stderr => &mut cutters[1],
    };
    cutter.rest.extend_from_slice(&message);
    let mut found = Vec::new();
    while let Some(end) = cutter.rest.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = cutter.rest.drain(..=end).collect();
        found.push(parse(stream, &line[..end]));
    }
    // However long a line becomes, it takes no more memory than what is kept of it.
    cutter.rest.truncate(LINE_BYTES);
    found
}

/// Last words without an end of line.
fn rests(cutters: &mut [Cutter; 2]) -> Vec<LogLine> {
    let streams = [LogStream::Stdout, LogStream::Stderr];
    let rests = streams.into_iter().zip(cutters.iter_mut());
    let rests = rests.map(|(stream, cutter)| (stream, std::mem::take(&mut cutter.rest)));
    rests.filter(|(_, rest)| !rest.is_empty()).map(|(stream, rest)| parse(stream, &rest)).collect()
}

/// `TIMESTAMP TEXT`, as Docker writes it.
fn parse(stream: LogStream, line: &[u8]) -> LogLine {
    let line = String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES)]);
    let (time, text) = line.split_once(' ').unwrap_or((&line, ""));
    let at = nanos(time) / 1_000_000;
    LogLine { at, stream, text: text.trim_end_matches('\r').to_owned() }
}
