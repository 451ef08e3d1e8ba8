//! The flight recorder: what the node handled, on disk, bounded, off the hot path.
//!
//! The event loop hands over each event; a thread of its own writes. A recording is a file that
//! begins with a checkpoint; when it is full the next begins, and only the last [`KEPT`] stay. If
//! the writer falls behind, the file ends there and a new one begins with a new checkpoint: a
//! recording has no holes. Replayed by `mill replay`.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use mill_core::recording::{Record, opening};
use mill_core::{Event, Node};

/// A recording is closed at this size.
const FILE_BYTES: u64 = 16 << 20;
/// Recordings that are kept.
const KEPT: usize = 2;
/// Events that wait for the disk.
const WAITING: usize = 4096;

/// Hands events to the writer.
#[derive(Debug)]
pub struct Recorder {
    to_writer: SyncSender<Line>,
    written: u64,
    /// Nothing is recorded until the next checkpoint.
    broken: bool,
}

enum Line {
    Begin(String),
    Add(Box<Record>),
}

impl Recorder {
    /// Records into `dir`, beginning with the node as it is.
    pub fn start(dir: &Path, boot: u64, node: &Node) -> io::Result<Recorder> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let (to_writer, lines) = sync_channel(WAITING);
        let files = Files::open(dir, boot)?;
        std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || write(&lines, files))?;
        let mut recorder = Recorder { to_writer, written: 0, broken: true };
        recorder.begin(node);
        Ok(recorder)
    }

    /// One event was handled; `node` is as it was left.
    pub fn add(&mut self, record: Record, node: &Node) {
        // What an event weighs is known only when it is written; this is near enough for a bound.
        self.written += weight(&record);
        if self.broken || self.written > FILE_BYTES {
            self.begin(node);
            return;
        }
        self.send(Line::Add(Box::new(record)));
    }

    fn begin(&mut self, node: &Node) {
        self.broken = false;
        self.written = 0;
        self.send(Line::Begin(opening(node)));
    }

    fn send(&mut self, line: Line) {
        match self.to_writer.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.broken = true,
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

fn weight(record: &Record) -> u64 {
    match &record.event {
        Event::Restored { bytes, .. } => 4 * bytes.len() as u64,
        Event::Committed { entry, .. } => 600 * (1 + entry.commands.len() as u64),
        Event::Request { .. } => 4000,
        Event::Message { .. } => 2000,
        Event::CaughtUp
        | Event::SnapshotWanted
        | Event::Leadership(_)
        | Event::ProposalFailed { .. }
        | Event::ReadConfirmed { .. }
        | Event::RequestDropped { .. }
        | Event::OpDone { .. }
        | Event::ContainerDied(_)
        | Event::EngineConnected
        | Event::Wake => 300,
    }
}

/// The recordings in a directory.
struct Files {
    dir: PathBuf,
    boot: u64,
    count: u64,
    kept: VecDeque<PathBuf>,
    current: Option<BufWriter<File>>,
}

impl Files {
    fn open(dir: &Path, boot: u64) -> io::Result<Files> {
        let entries = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
        let flight = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "flight");
        let mut kept: Vec<PathBuf> = entries.filter(flight).collect();
        kept.sort();
        let (kept, dir) = (kept.into(), dir.to_path_buf());
        Ok(Files { dir, boot, count: 0, kept, current: None })
    }

    fn begin(&mut self, opening: &str) -> io::Result<()> {
        if let Some(mut full) = self.current.take() {
            full.flush()?;
        }
        self.count += 1;
        let path = self.dir.join(format!("{:08}-{:06}.flight", self.boot, self.count));
        // Requests are recorded whole, with what people wrote into them: for the daemon's user.
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let mut file = BufWriter::new(file);
        file.write_all(opening.as_bytes())?;
        self.current = Some(file);
        self.kept.push_back(path);
        while self.kept.len() > KEPT {
            if let Some(oldest) = self.kept.pop_front() {
                fs::remove_file(oldest)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, record: &Record) -> io::Result<()> {
        let Some(file) = &mut self.current else { return Ok(()) };
        serde_json::to_writer(&mut *file, record)?;
        file.write_all(b"\n")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.current.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}

/// Writes until the recorder is dropped. A disk that refuses costs recordings, never service.
fn write(lines: &Receiver<Line>, mut files: Files) {
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            let written = match line {
                Line::Begin(opening) => files.begin(&opening),
                Line::Add(record) => files.add(&record),
            };
            failing = report(written, failing);
            next = lines.try_recv().ok();
        }
        // Nothing more waits: what a SIGKILL of the daemon must not lose goes to the kernel.
        failing = report(files.flush(), failing);
    }
}

fn report(result: io::Result<()>, failing: bool) -> bool {
    match result {
        Ok(()) => false,
        Err(error) => {
            if !failing {
                tracing::warn!(%error, "the flight recorder cannot write");
            }
            true
        }
    }
}
