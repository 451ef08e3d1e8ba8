//! Commands in a container that somebody watches: what goes in and what comes out.
//!
//! The engine carries input and output over a connection that it takes over from HTTP. That is
//! read here and not by bollard, which takes what a terminal prints for the engine's own framing
//! where it happens to look alike. An engine cannot end a command: its process group is
//! signalled, where that can be seen from here. Tested in `cli/tests/streams.rs`, and here against
//! an engine that misbehaves.

use std::io::ErrorKind;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, ResizeExecOptions};
use bollard::models::ExecInspectResponse;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use mill_core::container::{ContainerState, OpError, OpErrorKind};
use mill_core::name::AllocId;
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::errors::{self, error};
use super::{CALL_WITHIN, Engine, name, within};
use crate::streams::frame::{PIECE_BYTES, Size};

/// Keys at which an engine would take its hands off a command. It holds the first back until the
/// next one comes, so that is one that few need.
const DETACH_KEYS: &str = "ctrl-^,ctrl-^,ctrl-^,ctrl-^,ctrl-^,ctrl-^,ctrl-^,ctrl-^";
/// A terminal can be given its size only once its process is there.
const RESIZE_TRIES: u32 = 20;
const RESIZE_PAUSE: Duration = Duration::from_millis(25);
/// How often is looked whether a command has ended: at first, for so many times, and later.
const END_PAUSE: Duration = Duration::from_millis(50);
const END_LOOKS: u32 = 100;
const LATE_END_PAUSE: Duration = Duration::from_millis(500);
/// As often a command is asked to end, at each look, before it is made to.
const HANG_UPS: u32 = 40;
/// How often is looked whether one that nobody watches has begun, and for how long it may take to
/// end that.
const BEGIN_PAUSE: Duration = Duration::from_millis(250);
const HANG_UP_WITHIN: Duration = Duration::from_secs(600);
/// The most of what an engine says that is told.
const SAID_MAX: usize = 4 << 10;
/// What an engine prints where the command should, when that cannot be begun.
const CANNOT_BEGIN: &[u8] = b"OCI runtime exec failed";
/// Exit codes of commands that could not be begun, as shells have them (POSIX, 2.8.2).
const NOT_EXECUTABLE: i64 = 126;
const NOT_FOUND: i64 = 127;

/// What is to be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecWish {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether anything goes in.
    pub stdin: bool,
    /// The terminal that it is given; without, its output and its errors stay apart.
    pub tty: Option<Terminal>,
}

/// A person's terminal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Terminal {
    /// Its size.
    pub size: Size,
    /// What it is, as `$TERM` says.
    pub kind: Option<String>,
}

/// A command that has begun.
pub(crate) struct Command {
    pub(crate) handle: CommandHandle,
    pub(crate) input: Input,
    pub(crate) output: Output,
}

/// What can be asked about a command and done to it, whoever reads and writes. Clones are the same.
#[derive(Clone)]
pub(crate) struct CommandHandle {
    docker: Docker,
    id: String,
    doing: String,
}

/// What goes in.
pub(crate) struct Input(WriteHalf<TokioIo<Upgraded>>);

/// What comes out.
pub(crate) struct Output {
    from: ReadHalf<TokioIo<Upgraded>>,
    buffer: BytesMut,
    /// Where output and errors are told apart: whose the next bytes are, and how many.
    part: Option<(Part, usize)>,
    is_tty: bool,
}

/// What a piece of output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Standard output, or a terminal.
    Output,
    /// Standard error.
    Error,
}

/// How a command ended.
pub(crate) enum Ended {
    /// With this code.
    Exited(i32),
    /// There is no such program; in the engine's words.
    NotFound(String),
    /// The program cannot be run.
    NotExecutable(String),
}

/// What an engine answers that does not do what it is asked.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// Why there is no command.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// It certainly did not begin.
    Refused(OpError),
    /// The engine was asked to begin it and did not say whether it has. Should it begin later, it
    /// is ended.
    Unknown(String),
}

impl From<OpError> for NotBegun {
    fn from(error: OpError) -> NotBegun {
        NotBegun::Refused(error)
    }
}

impl Engine {
    /// Begins a command in an alloc's container.
    ///
    /// # Errors
    /// When the container is not there or does not run, or the engine refuses, or does not answer.
    pub(crate) async fn begin_exec(
        &self,
        alloc: &AllocId,
        wish: ExecWish,
    ) -> Result<Command, NotBegun> {
        let docker = self.docker().await?;
        let doing = format!("running a command in {alloc}");
        self.has_to_run(&docker, alloc).await?;
        let size = wish.tty.as_ref().map(|tty| tty.size);
        let container = name(alloc);
        let created = docker.create_exec(&container, options(wish));
        let id = within(CALL_WITHIN, &doing, created).await?.id;
        let handle = CommandHandle { docker, id, doing };
        let asking = self.asking(&handle.doing).await?;
        let asked = timeout(CALL_WITHIN, handle.take_over(asking, size.is_some())).await;
        let silent = |_| NotBegun::Unknown(handle.unknown("the engine did not answer"));
        let socket = match asked.map_err(silent).flatten() {
            Ok(socket) => socket,
            Err(error) => {
                if matches!(error, NotBegun::Unknown(_)) {
                    tokio::spawn(handle.hang_up());
                }
                return Err(error);
            }
        };
        let (read, write) = split(TokioIo::new(socket));
        if let Some(size) = size {
            tokio::spawn(handle.clone().resize(size));
        }
        let is_tty = size.is_some();
        let output = Output { from: read, buffer: BytesMut::new(), part: None, is_tty };
        Ok(Command { handle, input: Input(write), output })
    }

    async fn has_to_run(&self, docker: &Docker, alloc: &AllocId) -> Result<(), OpError> {
        let (kind, detail) = match self.find(docker, alloc).await?.map(|found| found.state) {
            Some(ContainerState::Running) => return Ok(()),
            Some(ContainerState::Created) => {
                let detail = format!("{alloc} is not running: its container was not started yet");
                (OpErrorKind::Unhealthy, detail)
            }
            Some(ContainerState::Exited(exit)) => {
                let code = exit.code;
                let detail = format!("{alloc} is not running: it ended with exit code {code}");
                (OpErrorKind::Unhealthy, detail)
            }
            None => (OpErrorKind::Gone, format!("{alloc} has no container any more, or not yet")),
        };
        Err(error(kind, detail))
    }

    /// A connection that is not shared, since a command takes it over.
    async fn asking(&self, doing: &str) -> Result<Asking, OpError> {
        let connecting = async {
            let socket = UnixStream::connect(&self.shared.socket).await;
            let socket = socket.map_err(|cause| cause.to_string())?;
            let greeted = http1::handshake(TokioIo::new(socket)).await;
            let (asking, connection) = greeted.map_err(|cause| errors::chain(&cause))?;
            tokio::spawn(connection.with_upgrades());
            Ok(asking)
        };
        let connected = timeout(CALL_WITHIN, connecting).await;
        let connected = connected.map_err(|_| errors::silent(doing))?;
        connected.map_err(|why: String| {
            let detail = format!("{doing}: the container engine does not answer ({why})");
            error(OpErrorKind::EngineDown, detail)
        })
    }
}

type Asking = http1::SendRequest<Full<Bytes>>;

fn options(wish: ExecWish) -> CreateExecOptions<String> {
    let kind = wish.tty.as_ref().and_then(|tty| tty.kind.as_ref());
    CreateExecOptions {
        attach_stdin: Some(wish.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(wish.tty.is_some()),
        detach_keys: Some(DETACH_KEYS.to_owned()),
        env: kind.map(|kind| vec![format!("TERM={kind}")]),
        cmd: Some(wish.command),
        ..CreateExecOptions::default()
    }
}

impl CommandHandle {
    /// Starts it, and takes its input and output over.
    async fn take_over(&self, mut asking: Asking, is_tty: bool) -> Result<Upgraded, NotBegun> {
        let unknown = |cause: &hyper::Error| NotBegun::Unknown(self.unknown(&errors::chain(cause)));
        let refused = |detail: String| {
            let detail = format!("{}: {detail}", self.doing);
            NotBegun::Refused(error(OpErrorKind::Other, detail))
        };
        let body = json!({ "Detach": false, "Tty": is_tty }).to_string();
        let request = Request::post(format!("/exec/{}/start", self.id))
            .header(HOST, "engine")
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "tcp")
            .body(Full::new(Bytes::from(body)));
        let request = request.map_err(|cause| refused(cause.to_string()))?;
        let answered = asking.try_send_request(request).await;
        let response = answered.map_err(|mut failed| match failed.take_message() {
            // What comes back was not sent.
            Some(_) => refused(errors::chain(failed.error())),
            None => unknown(failed.error()),
        })?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return hyper::upgrade::on(response).await.map_err(|cause| unknown(&cause));
        }
        // It switches before it begins.
        let said = Limited::new(response.into_body(), SAID_MAX).collect().await;
        let said = said.map(|said| said.to_bytes()).unwrap_or_default();
        let refusal = serde_json::from_slice(&said).map(|Refusal { message }| message);
        let message = refusal.unwrap_or_else(|_| String::from_utf8_lossy(&said).into_owned());
        let status_code = status.as_u16();
        let cause = Error::DockerResponseServerError { status_code, message };
        Err(NotBegun::Refused(errors::of(&self.doing, &cause)))
    }

    fn unknown(&self, why: &str) -> String {
        format!("{}: the command may have begun, and is ended if it has: {why}", self.doing)
    }

    /// Gives its terminal another size.
    pub(crate) async fn resize(self, size: Size) {
        let options = ResizeExecOptions { height: size.rows, width: size.columns };
        for _ in 0..RESIZE_TRIES {
            match timeout(CALL_WITHIN, self.docker.resize_exec(&self.id, options)).await {
                Ok(Ok(())) => return,
                Ok(Err(_)) | Err(_) => sleep(RESIZE_PAUSE).await,
            }
        }
    }

    /// Waits until it has ended, and says how; `said` is how that began which it printed.
    pub(crate) async fn ended(&self, said: &[u8]) -> Result<Ended, OpError> {
        let mut looks = 0;
        loop {
            let looked = self.docker.inspect_exec(&self.id);
            let exec = within(CALL_WITHIN, &self.doing, looked).await?;
            let Some(code) = exec.exit_code.filter(|_| exec.running != Some(true)) else {
                sleep(if looks < END_LOOKS { END_PAUSE } else { LATE_END_PAUSE }).await;
                looks = (looks + 1).min(END_LOOKS);
                continue;
            };
            let why = || errors::cleaned(&String::from_utf8_lossy(said));
            return Ok(match code {
                NOT_EXECUTABLE | NOT_FOUND if said.starts_with(CANNOT_BEGIN) => {
                    let why = why();
                    // Engines before version 23 have one code for both.
                    match why.contains("permission denied") {
                        true => Ended::NotExecutable(why),
                        false => Ended::NotFound(why),
                    }
                }
                code => Ended::Exited(i32::try_from(code).unwrap_or(i32::MAX)),
            });
        }
    }

    /// Ends it, as a terminal does that is closed, and by force if that does not help. Of what it
    /// has begun, that ends with it which is in its process group or that of its terminal. If it
    /// has not begun yet, it is waited for: an engine that hangs may begin it when it goes on.
    pub(crate) async fn hang_up(self) {
        if timeout(HANG_UP_WITHIN, self.hanging_up()).await.is_err() {
            tracing::warn!(doing = self.doing, "a command may go on that nobody watches");
        }
    }

    async fn hanging_up(&self) {
        let mut signals = 0;
        loop {
            let pause = match timeout(CALL_WITHIN, self.docker.inspect_exec(&self.id)).await {
                Ok(Ok(exec)) if exec.exit_code.is_some() => return,
                Ok(Ok(exec)) if exec.pid.is_some_and(|pid| pid > 0) => {
                    let signal = if signals < HANG_UPS { Signal::HUP } else { Signal::KILL };
                    signal_exec(&exec, signal);
                    signals += 1;
                    if signals == END_LOOKS {
                        return;
                    }
                    END_PAUSE
                }
                // Its container is gone, and it with it.
                Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => return,
                // It has not begun, or the engine is busy or away.
                Ok(Ok(_) | Err(_)) | Err(_) => BEGIN_PAUSE,
            };
            sleep(pause).await;
        }
    }
}

/// Signals the processes of a command, if it has begun.
pub(super) fn signal_exec(exec: &ExecInspectResponse, signal: Signal) {
    let (Some(pid), Some(container)) = (exec.pid, exec.container_id.as_deref()) else { return };
    // Only if it is the container's process: the engine might count in another namespace.
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid.filter(|_| groups.contains(container)) {
        // It may have ended just now.
        let _ = match getpgid(Some(pid)) {
            Ok(group) if group == pid => kill_process_group(pid, signal),
            Ok(_) | Err(_) => kill_process(pid, signal),
        };
    }
}

impl Input {
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Nothing more goes in.
    pub(crate) async fn end(&mut self) -> std::io::Result<()> {
        self.0.shutdown().await
    }
}

impl Output {
    /// The next piece; `None` at the end, which may be before that of the command. Nothing is lost
    /// when this is given up.
    pub(crate) async fn next(&mut self) -> std::io::Result<Option<(Part, Bytes)>> {
        loop {
            if let Some(piece) = self.piece()? {
                return Ok(Some(piece));
            }
            self.buffer.reserve(PIECE_BYTES);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return match (self.buffer.is_empty(), self.part) {
                    (true, None) => Ok(None),
                    (false, _) | (_, Some(_)) => Err(ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    fn piece(&mut self) -> std::io::Result<Option<(Part, Bytes)>> {
        cut(&mut self.buffer, &mut self.part, self.is_tty)
    }
}

/// Takes what is there of the next piece. Without a terminal, the engine writes before each part
/// whose it is and how long, in eight bytes (Docker Engine API, "Stream format").
fn cut(
    buffer: &mut BytesMut,
    part: &mut Option<(Part, usize)>,
    is_tty: bool,
) -> std::io::Result<Option<(Part, Bytes)>> {
    loop {
        let (whose, left) = match *part {
            _ if is_tty => (Part::Output, buffer.len()),
            Some(part) => part,
            None => {
                let Some(([kind, _, _, _, length @ ..], _)) = buffer.split_first_chunk::<8>()
                else {
                    return Ok(None);
                };
                let whose = match kind {
                    0 | 1 => Part::Output,
                    2 => Part::Error,
                    _ => return Err(std::io::Error::other("the engine's framing is not known")),
                };
                *part = Some((whose, u32::from_be_bytes(*length) as usize));
                buffer.advance(8);
                continue;
            }
        };
        let taken = left.min(buffer.len()).min(PIECE_BYTES);
        *part = Some((whose, left - taken)).filter(|(_, left)| *left > 0);
        match taken {
            0 if left == 0 && !is_tty => {}
            0 => return Ok(None),
            _ => return Ok(Some((whose, buffer.split_to(taken).freeze()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::stand_in::{self, Says};
    use super::*;

    fn wish() -> ExecWish {
        ExecWish { command: vec!["true".to_owned()], stdin: false, tty: None }
    }

    #[tokio::test]
    async fn a_command_that_the_engine_begins_late_is_ended() {
        let mut command = std::process::Command::new("sleep");
        let mut late = command.arg("1000").process_group(0).spawn().unwrap();
        let (pid, looks) = (late.id(), AtomicU32::new(0));
        let (engine, _dir) = stand_in::engine(move |path| match path {
            "/exec/e1/start" => Some(Says::Nothing),
            "/exec/e1/json" => {
                let has_begun = looks.fetch_add(1, Ordering::Relaxed) >= 3;
                let pid = if has_begun { pid } else { 0 };
                // Every process is in a group that has that in its name.
                let exec = json!({ "Running": has_begun, "Pid": pid, "ContainerID": ":" });
                Some(Says::Json(200, exec))
            }
            _ => None,
        });
        let begun = engine.begin_exec(&AllocId::known("web.0-a"), wish()).await;
        let Err(NotBegun::Unknown(why)) = begun.map(|_| ()) else { panic!("it is not known") };
        assert!(why.contains("the command may have begun"), "{why}");
        let ended = tokio::task::spawn_blocking(move || late.wait().unwrap());
        let ended = timeout(CALL_WITHIN, ended).await.expect("it is ended").unwrap();
        assert_eq!(ended.signal(), Some(Signal::HUP.as_raw()));
    }

    #[tokio::test]
    async fn what_is_refused_before_it_is_started_has_not_begun() {
        let create = "/containers/mill-web.0-a/exec";
        let paused = "container 0a1b is paused, unpause the container before exec";
        let cases = [
            (create, 409, paused, OpErrorKind::Unhealthy),
            (create, 500, "something new", OpErrorKind::Other),
            ("/exec/e1/start", 404, "No such exec instance: e1", OpErrorKind::Gone),
            ("/exec/e1/start", 409, paused, OpErrorKind::Unhealthy),
            ("/exec/e1/start", 500, "something new", OpErrorKind::Other),
        ];
        for (refused, status, message, kind) in cases {
            let (engine, _dir) = stand_in::engine(move |path| {
                (path == refused).then(|| Says::Json(status, json!({ "message": message })))
            });
            let begun = engine.begin_exec(&AllocId::known("web.0-a"), wish()).await;
            let Err(NotBegun::Refused(error)) = begun.map(|_| ()) else { panic!("{message}") };
            assert_eq!(error.kind, kind, "{error:?}");
            assert!(error.detail.contains(message), "{error:?}");
        }
    }

    #[test]
    fn output_and_errors_are_told_apart_however_they_arrive() {
        let whole = [
            &[1, 0, 0, 0, 0, 0, 0, 3][..],
            b"out",
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 0, 0, 0, 5],
            b"error",
        ]
        .concat();
        for size in 1..whole.len() {
            let (mut buffer, mut part) = (BytesMut::new(), None);
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for chunk in whole.chunks(size) {
                buffer.extend_from_slice(chunk);
                while let Some((whose, piece)) = cut(&mut buffer, &mut part, false).unwrap() {
                    if whose == Part::Output { &mut out } else { &mut err }.extend(piece);
                }
            }
            assert_eq!((&out[..], &err[..]), (&b"out"[..], &b"error"[..]), "{size}");
        }
    }

    #[test]
    fn what_a_terminal_prints_is_taken_as_it_is() {
        let mut buffer = BytesMut::from(&[1, 0, 0, 0, 255, 255, 255, 255, 7][..]);
        let (whose, piece) = cut(&mut buffer, &mut None, true).unwrap().unwrap();
        assert_eq!((whose, &piece[..]), (Part::Output, &[1, 0, 0, 0, 255, 255, 255, 255, 7][..]));
        assert!(cut(&mut buffer, &mut None, true).unwrap().is_none());
    }
}
