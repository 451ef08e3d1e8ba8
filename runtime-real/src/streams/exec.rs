//! A command in a container of this node: frames on one side, the engine on the other.
//!
//! Input and output go by themselves, so that neither waits for the other. While nothing is
//! printed a beat is sent now and then: so whoever is gone is noticed, and the command is ended.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use mill_core::api::{ApiError, ErrorCode};
use mill_core::container::{OpError, OpErrorKind};
use mill_core::name::AllocId;
use tokio::sync::watch;
use tokio::time::timeout;

use super::frame::{BEAT_EVERY, Frame, Opened, Receiver, Sender, Size};
use super::{Streams, why};
use crate::docker::{Command, CommandHandle, Ended, ExecWish, Input, NotBegun, Output, Part};

/// As much of what is printed first is kept until it is known whether the command could be begun.
const HELD_MAX: usize = 4 << 10;
/// What an engine prints first in place of a command that cannot be begun.
const SUSPECT: &[u8] = b"OCI runtime exec failed";

impl Streams {
    /// Begins a command.
    pub(super) async fn begin_exec(
        &self,
        alloc: &AllocId,
        wish: ExecWish,
    ) -> Result<Command, ApiError> {
        self.engine.begin_exec(alloc, wish).await.map_err(|error| match error {
            NotBegun::Refused(error) => self.refusal(alloc, error),
            // So it is not tried on another replica.
            NotBegun::Unknown(detail) => {
                ApiError::new(ErrorCode::Unknown, format!("{detail} (on node {})", self.name))
            }
        })
    }

    /// Of a command that did not begin.
    fn refusal(&self, alloc: &AllocId, error: OpError) -> ApiError {
        let message = format!("{} (on node {})", error.detail, self.name);
        match error.kind {
            OpErrorKind::Gone => {
                ApiError::new(ErrorCode::NotFound, message).hint("`mill ps` lists what runs")
            }
            OpErrorKind::Unhealthy => {
                let hint = format!("`mill why {alloc}` says why");
                ApiError::new(ErrorCode::Conflict, message).hint(hint)
            }
            OpErrorKind::Rejected
            | OpErrorKind::EngineDown
            | OpErrorKind::DiskFull
            | OpErrorKind::ImageMissing
            | OpErrorKind::RegistryDown
            | OpErrorKind::RegistryRefused
            | OpErrorKind::PortTaken
            | OpErrorKind::TimedOut
            | OpErrorKind::Other => ApiError::new(ErrorCode::Internal, message),
        }
    }
}

/// Carries a command's input and output until it ends, or nobody watches it any more.
pub(super) async fn run(
    command: Command,
    opened: Opened,
    mut sender: Sender,
    receiver: Receiver,
) -> io::Result<()> {
    let Command { handle, input, output } = command;
    let carried = async {
        sender.send(Frame::Opened(opened)).await?;
        tokio::select! {
            told = tell(&handle, output, &mut sender) => told.map(Some),
            () = feed(&handle, input, receiver) => Ok(None),
        }
    };
    let last = match carried.await {
        Ok(Some(last)) => last,
        // Nobody is there any more.
        Ok(None) | Err(_) => {
            handle.hang_up().await;
            return Ok(());
        }
    };
    sender.send(last).await
}

/// Passes on what is printed. Says what comes last.
async fn tell(
    handle: &CommandHandle,
    mut output: Output,
    sender: &mut Sender,
) -> io::Result<Frame> {
    let mut held = Held::default();
    let is_whole = loop {
        let (part, bytes) = match timeout(BEAT_EVERY, output.next()).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => break true,
            Ok(Err(_)) => break false,
            Err(_) => {
                sender.send(Frame::Beat).await?;
                continue;
            }
        };
        for (part, bytes) in held.pass(part, bytes).into_iter().flatten() {
            sender.send(frame_of(part, bytes)).await?;
        }
    };
    let ended = end_of(handle, &held.words, is_whole, sender).await?;
    let is_engines = matches!(ended, Some(Ok(Ended::NotFound(_) | Ended::NotExecutable(_))));
    if let Some((part, bytes)) = held.release().filter(|_| !is_engines) {
        sender.send(frame_of(part, bytes)).await?;
    }
    let Some(ended) = ended else {
        tokio::spawn(handle.clone().hang_up());
        let message = "the engine stopped to carry what the command prints; it is ended";
        return Ok(Frame::Failed(ApiError::new(ErrorCode::Internal, message)));
    };
    Ok(match ended {
        Ok(Ended::NotFound(said)) => {
            Frame::Failed(ApiError::new(ErrorCode::NotFound, format!("command not found: {said}")))
        }
        Ok(Ended::NotExecutable(said)) => {
            let message = format!("the command cannot be run: {said}");
            Frame::Failed(ApiError::new(ErrorCode::Forbidden, message))
        }
        Ok(Ended::Exited(code)) => Frame::Exited(code),
        Err(error) => {
            tokio::spawn(handle.clone().hang_up());
            let message = format!("how the command ended is not known: {}", error.detail);
            Frame::Failed(ApiError::new(ErrorCode::Unknown, message))
        }
    })
}

/// How the command ended, which may be long after all was read that it prints. If that was not
/// read to its end, `None` for a command that goes on.
async fn end_of(
    handle: &CommandHandle,
    said: &[u8],
    is_whole: bool,
    sender: &mut Sender,
) -> io::Result<Option<Result<Ended, OpError>>> {
    let mut ended = pin!(handle.ended(said));
    loop {
        match timeout(BEAT_EVERY, &mut ended).await {
            Ok(ended) => return Ok(Some(ended)),
            Err(_) if is_whole => sender.send(Frame::Beat).await?,
            Err(_) => return Ok(None),
        }
    }
}

/// What is printed first, while it may be the engine's words in place of the command's.
#[derive(Default)]
struct Held {
    words: Vec<u8>,
    /// It is the command's.
    is_over: bool,
}

impl Held {
    /// What is to be passed on now that this was printed, in that order.
    fn pass(&mut self, part: Part, bytes: Bytes) -> [Option<(Part, Bytes)>; 2] {
        if self.is_over {
            return [Some((part, bytes)), None];
        }
        match part {
            // Engines say it where the command's output would be.
            Part::Output => {
                self.words.extend_from_slice(&bytes);
                let common = self.words.len().min(SUSPECT.len());
                let is_suspect = self.words[..common] == SUSPECT[..common];
                let is_held = is_suspect && self.words.len() <= HELD_MAX;
                [if is_held { None } else { self.release() }, None]
            }
            Part::Error => [self.release(), Some((part, bytes))],
        }
    }

    /// Nothing is held from now on.
    fn release(&mut self) -> Option<(Part, Bytes)> {
        self.is_over = true;
        let words = std::mem::take(&mut self.words);
        (!words.is_empty()).then(|| (Part::Output, words.into()))
    }
}

fn frame_of(part: Part, bytes: Bytes) -> Frame {
    match part {
        Part::Output => Frame::Data(bytes),
        Part::Error => Frame::Error(bytes),
    }
}

/// Passes on what is typed, until who types is gone.
async fn feed(handle: &CommandHandle, mut input: Input, mut receiver: Receiver) {
    let (resize, sizes) = watch::channel(None);
    tokio::spawn(resizing(handle.clone(), sizes));
    let mut is_open = true;
    loop {
        let frame = match receiver.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(error = why(&error), "who watched a command is lost");
                return;
            }
        };
        match frame {
            // A command that has closed its input gets no more of it.
            Frame::Data(bytes) if is_open => is_open = input.write(&bytes).await.is_ok(),
            Frame::End if is_open => {
                // The same.
                let _ = input.end().await;
                is_open = false;
            }
            Frame::Resize(size) => {
                resize.send_replace(Some(size));
            }
            Frame::Data(_)
            | Frame::End
            | Frame::Ask(_)
            | Frame::Opened(_)
            | Frame::Error(_)
            | Frame::Exited(_)
            | Frame::Failed(_)
            | Frame::Beat => {}
        }
    }
}

/// One after the other, and of several that came meanwhile the last.
async fn resizing(handle: CommandHandle, mut sizes: watch::Receiver<Option<Size>>) {
    while sizes.changed().await.is_ok() {
        let size = *sizes.borrow_and_update();
        if let Some(size) = size {
            handle.clone().resize(size).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::over_socket;
    use super::*;
    use crate::docker::stand_in::{self, Says};
    use serde_json::{Value, json};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// What a client is told of a command that prints these, and ends so.
    async fn told(printed: &[(Part, &str)], exec: Value) -> Vec<Frame> {
        told_of(framed(printed), move |_| exec.clone()).await
    }

    /// As an engine writes it.
    fn framed(printed: &[(Part, &str)]) -> Vec<Vec<u8>> {
        let framed = printed.iter().map(|(part, text)| {
            let kind = if *part == Part::Output { 1 } else { 2 };
            let length = u32::try_from(text.len()).unwrap().to_be_bytes();
            [&[kind, 0, 0, 0], &length[..], text.as_bytes()].concat()
        });
        framed.collect()
    }

    /// The same, of what the engine writes and says at each look.
    async fn told_of(
        framed: Vec<Vec<u8>>,
        exec: impl Fn(u32) -> Value + Send + Sync + 'static,
    ) -> Vec<Frame> {
        let looks = AtomicU32::new(0);
        let (engine, _dir) = stand_in::engine(move |path| match path {
            "/exec/e1/start" => Some(Says::Carries(framed.clone())),
            "/exec/e1/json" => Some(match exec(looks.fetch_add(1, Ordering::Relaxed)) {
                Value::Null => Says::Nothing,
                exec => Says::Json(200, exec),
            }),
            _ => None,
        });
        let wish = ExecWish { command: Vec::new(), stdin: false, tty: None };
        let alloc = AllocId::known("web.0-a");
        let command = engine.begin_exec(&alloc, wish).await.unwrap_or_else(|e| panic!("{e:?}"));
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let (sender, receiver) = over_socket(ours);
        let opened = Opened { alloc, node: "m1".to_owned() };
        tokio::spawn(run(command, opened, sender, receiver));
        let (_sender, mut receiver) = over_socket(theirs);
        let mut frames = Vec::new();
        while let Some(frame) = receiver.next().await.unwrap() {
            let is_last = matches!(frame, Frame::Exited(_) | Frame::Failed(_));
            frames.push(frame);
            if is_last {
                break;
            }
        }
        assert!(matches!(frames.remove(0), Frame::Opened(_)), "{frames:?}");
        frames
    }

    fn text(kind: fn(Bytes) -> Frame, text: &'static str) -> Frame {
        kind(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn what_a_command_prints_is_passed_on_though_it_begins_as_an_engine_does() {
        let ended = |code: i32| json!({ "Running": false, "ExitCode": code });
        let printed = [(Part::Output, "OCI "), (Part::Error, "no\n"), (Part::Output, "runtime")];
        let frames = told(&printed, ended(1)).await;
        let whole = [
            text(Frame::Data, "OCI "),
            text(Frame::Error, "no\n"),
            text(Frame::Data, "runtime"),
            Frame::Exited(1),
        ];
        assert_eq!(frames, whole);
        // What the engine is not suspected of is the command's own.
        let frames = told(&[(Part::Error, "OCI runtime exec failed")], ended(127)).await;
        assert_eq!(frames, [text(Frame::Error, "OCI runtime exec failed"), Frame::Exited(127)]);
        let frames = told(&[(Part::Output, "OCI runtime exec failed: no")], ended(127)).await;
        assert!(matches!(&frames[..], [Frame::Failed(_)]), "{frames:?}");
        // How it ended is not found out, and what it printed is not lost.
        let frames = told(&[(Part::Output, "OCI")], Value::Null).await;
        let [printed, Frame::Failed(error)] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!(*printed, text(Frame::Data, "OCI"));
        assert_eq!(error.code, ErrorCode::Unknown);
    }

    #[tokio::test]
    async fn a_command_goes_on_that_prints_no_more_and_not_one_that_cannot_be_heard() {
        // That is longer than the first looks at it.
        let late = |look| match look < 105 {
            true => json!({ "Running": true, "Pid": 0 }),
            false => json!({ "Running": false, "ExitCode": 3 }),
        };
        let frames = told_of(Vec::new(), late).await;
        let [beats @ .., Frame::Exited(3)] = &frames[..] else { panic!("{frames:?}") };
        assert!(!beats.is_empty() && beats.iter().all(|frame| *frame == Frame::Beat));
        let cut = vec![framed(&[(Part::Output, "whole")]).concat(), vec![1, 0, 0]];
        let frames = told_of(cut, |_| json!({ "Running": true, "Pid": 0 })).await;
        let [printed, Frame::Failed(error)] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!(*printed, text(Frame::Data, "whole"));
        assert!(error.message.contains("stopped to carry"), "{error:?}");
    }
}
