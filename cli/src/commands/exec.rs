//! `mill exec`: a command in a container, as if it ran here.
//!
//! With a terminal, this one is made raw, so that every key reaches the command, and is restored
//! on every way out that a program can see. Without, what the command prints and what it complains
//! about stay apart. Its exit code is that of `mill`.

use std::env;
use std::io::{self, IsTerminal as _, Read as _};
use std::process::ExitCode;

use hyper::body::Bytes;
use mill_core::api::ErrorCode;
use mill_runtime_real::docker::{ExecWish, Terminal};
use mill_runtime_real::streams::Ask;
use mill_runtime_real::streams::frame::{Frame, PIECE_BYTES, Receiver, Sender, Size};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Outcome;
use crate::args::Exec;
use crate::client::Client;
use crate::failure::Failure;
use crate::render::pipe::ENDED_BY_SIGPIPE;

/// Exit codes of a command that cannot be begun, as shells have them (POSIX, 2.8.2).
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// `mill exec`.
pub async fn exec(args: Exec, json: bool) -> Outcome {
    if args.tty && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        let message = "there is no terminal here to give to the command: leave out -t";
        return Err(Failure::Usage(message.to_owned()));
    }
    let client = Client::new(&args.at.address)?;
    let tty = args.tty.then(|| Terminal { size: size(), kind: env::var("TERM").ok() });
    let wish = ExecWish { command: args.command, stdin: args.interactive, tty };
    let (sender, receiver, _) = client.stream(&Ask::Exec { target: args.target, wish }).await?;
    // It is restored when this returns, however that is.
    let raw = (args.tty && args.interactive).then(Raw::enter).transpose()?;
    let input = args.interactive.then(read_input);
    let ended = tokio::select! {
        ended = print(receiver) => ended,
        failed = feed(sender, input, args.tty) => Err(failed),
        code = asked_to_end(raw.is_some()) => Ok(Ended::Exited(code)),
    };
    drop(raw);
    match ended? {
        Ended::Exited(code) => Ok(ExitCode::from(code)),
        Ended::Unread => Ok(ExitCode::from(ENDED_BY_SIGPIPE)),
        Ended::NotBegun { code, failure } => {
            failure.report(json);
            Ok(ExitCode::from(code))
        }
    }
}

/// How it ended.
enum Ended {
    /// With this code.
    Exited(u8),
    /// The command could not be begun.
    NotBegun { code: u8, failure: Failure },
    /// Nobody reads what it prints.
    Unread,
}

/// Prints what the command does, to its end.
async fn print(mut receiver: Receiver) -> Result<Ended, Failure> {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        let frame = receiver.next().await.map_err(|error| lost(&error.to_string()))?;
        let written = match frame {
            Some(Frame::Data(bytes)) => write(&mut out, &bytes).await,
            Some(Frame::Error(bytes)) => write(&mut err, &bytes).await,
            Some(Frame::Exited(code)) => {
                // Shells keep the low byte as well.
                return Ok(Ended::Exited(code.to_le_bytes()[0]));
            }
            Some(Frame::Failed(error)) => {
                // The container is there by now, so it is the command that is not.
                let codes =
                    [(ErrorCode::NotFound, NOT_FOUND), (ErrorCode::Forbidden, NOT_EXECUTABLE)];
                let code = codes.into_iter().find(|(code, _)| *code == error.code);
                let failure = Failure::Refused(error);
                let Some((_, code)) = code else { return Err(failure) };
                return Ok(Ended::NotBegun { code, failure });
            }
            Some(
                Frame::Ask(_) | Frame::Opened(_) | Frame::End | Frame::Resize(_) | Frame::Beat,
            ) => Ok(()),
            None => return Err(lost("it ended the stream")),
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Ended::Unread),
            Err(error) => {
                let text = format!("what the command prints cannot be written: {error}");
                return Err(Failure::Failed(text));
            }
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

fn lost(why: &str) -> Failure {
    Failure::Unreachable(format!(
        "the daemon was lost in the middle of it: {why}\nthe command is ended, if it has not yet"
    ))
}

/// Passes on what is typed, and the size of the terminal; ends only when the stream does.
async fn feed(mut sender: Sender, mut input: Option<mpsc::Receiver<Bytes>>, tty: bool) -> Failure {
    let mut resized = tty.then(|| signal(SignalKind::window_change()).ok()).flatten();
    loop {
        let frame = tokio::select! {
            read = next(&mut input) => match read {
                Some(bytes) => Frame::Data(bytes),
                None => {
                    input = None;
                    Frame::End
                }
            },
            () = happens(&mut resized) => Frame::Resize(size()),
        };
        if sender.send(frame).await.is_err() {
            // The other direction knows why.
            std::future::pending::<()>().await;
        }
    }
}

/// The next piece of input; none ever comes where none is read.
async fn next(input: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

async fn happens(signal: &mut Option<Signal>) {
    let is_there = match signal {
        Some(signal) => signal.recv().await.is_some(),
        None => false,
    };
    if !is_there {
        std::future::pending::<()>().await;
    }
}

/// Reads standard input on a thread of its own: one that nobody waits for when the command ends.
fn read_input() -> mpsc::Receiver<Bytes> {
    let (pieces, input) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut stdin = io::stdin().lock();
        while let Ok(length @ 1..) = stdin.read(&mut buffer) {
            if pieces.blocking_send(Bytes::copy_from_slice(&buffer[..length])).is_err() {
                return;
            }
        }
    });
    input
}

/// While the terminal is raw: a signal that asks `mill` to end, as the exit code that says so.
async fn asked_to_end(is_raw: bool) -> u8 {
    let kinds = [
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
    ];
    let ends = kinds.into_iter().filter(|_| is_raw).map(|kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
                u8::try_from(128 + kind.as_raw_value()).unwrap_or(1)
            }
            Err(_) => std::future::pending().await,
        }
    });
    let ends: Vec<_> = ends.map(Box::pin).collect();
    match ends.is_empty() {
        true => std::future::pending().await,
        false => futures_util::future::select_all(ends).await.0,
    }
}

/// The size of this terminal.
fn size() -> Size {
    let found = tcgetwinsize(io::stdout());
    let (columns, rows) = found.map_or((80, 24), |size| (size.ws_col, size.ws_row));
    Size { columns, rows }
}

/// A terminal that passes every key on, until this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Result<Raw, Failure> {
        let failed = |error: rustix::io::Errno| {
            Failure::Failed(format!("this terminal cannot be made raw: {error}"))
        };
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that was closed has nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}
