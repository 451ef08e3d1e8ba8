//! A command in a container of this node: frames on one side, the engine on the other.
//!
//! Input and output go by themselves, so that neither waits for the other. While nothing is
//! printed a beat is sent now and then: so whoever is gone is noticed, and the command is ended.

use std::io;

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
    let mut held = Vec::new();
    let mut is_held = true;
    loop {
        let piece = match timeout(BEAT_EVERY, output.next()).await {
            Ok(Ok(piece)) => piece,
            // The engine was lost: how the command ended may still be found out.
            Ok(Err(_)) => None,
            Err(_) => {
                sender.send(Frame::Beat).await?;
                continue;
            }
        };
        let Some((part, bytes)) = piece else { break };
        if is_held {
            held.extend_from_slice(&bytes);
            let common = held.len().min(SUSPECT.len());
            is_held = held[..common] == SUSPECT[..common] && held.len() <= HELD_MAX;
            if is_held {
                continue;
            }
            sender.send(frame_of(part, std::mem::take(&mut held).into())).await?;
            continue;
        }
        sender.send(frame_of(part, bytes)).await?;
    }
    let ended = match handle.ended(&held).await {
        Ok(ended) => ended,
        Err(error) => {
            let message = format!("how the command ended is not known: {}", error.detail);
            return Ok(Frame::Failed(ApiError::new(ErrorCode::Unknown, message)));
        }
    };
    Ok(match ended {
        Ended::NotFound(said) => {
            Frame::Failed(ApiError::new(ErrorCode::NotFound, format!("command not found: {said}")))
        }
        Ended::NotExecutable(said) => {
            let message = format!("the command cannot be run: {said}");
            Frame::Failed(ApiError::new(ErrorCode::Forbidden, message))
        }
        Ended::Exited(code) => {
            if !held.is_empty() {
                sender.send(frame_of(Part::Output, held.into())).await?;
            }
            Frame::Exited(code)
        }
        Ended::Runs => {
            handle.clone().hang_up().await;
            let message = "the engine stopped to carry what the command prints; it was ended";
            Frame::Failed(ApiError::new(ErrorCode::Internal, message))
        }
    })
}

fn frame_of(part: Part, bytes: bytes::Bytes) -> Frame {
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
