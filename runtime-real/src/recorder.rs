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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use mill_core::Node;
use mill_core::recording::{Record, opening};

/// A recording is closed at this size.
const FILE_BYTES: u64 = 16 << 20;
/// Recordings that are kept.
const KEPT: usize = 4;
/// Events that wait for the disk.
const WAITING: usize = 4096;
/// After something could not be written, so many events pass before a new recording is tried: a
/// checkpoint is the dearest thing to write.
const PASSED_OVER: u64 = 1000;

/// Hands events to the writer.
#[derive(Debug)]
pub struct Recorder {
    to_writer: SyncSender<Line>,
    /// The writer wants a new recording: the last is full, or could not be written.
    wanted: Arc<AtomicBool>,
    /// Nothing is recorded until the next checkpoint.
    broken: bool,
    /// Events that were passed over since it broke.
    passed_over: u64,
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
        let wanted = Arc::new(AtomicBool::new(false));
        let files = Files::open(dir, boot, wanted.clone())?;
        std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || write(&lines, files))?;
        let mut recorder = Recorder { to_writer, wanted, broken: false, passed_over: 0 };
        recorder.begin(node);
        Ok(recorder)
    }

    /// One event was handled; `node` is as it was left.
    pub fn add(&mut self, record: Record, node: &Node) {
        if self.wanted.swap(false, Ordering::Relaxed) {
            self.begin(node);
        } else if !self.broken {
            self.send(Line::Add(Box::new(record)));
        } else if self.passed_over < PASSED_OVER {
            self.passed_over += 1;
        } else {
            self.begin(node);
        }
    }

    fn begin(&mut self, node: &Node) {
        self.broken = false;
        self.passed_over = 0;
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

/// The recordings in a directory.
struct Files {
    dir: PathBuf,
    boot: u64,
    count: u64,
    kept: VecDeque<PathBuf>,
    current: Option<BufWriter<File>>,
    /// Bytes of the current one.
    size: u64,
    /// Events for which there was no current one.
    lost: u64,
    wanted: Arc<AtomicBool>,
}

impl Files {
    fn open(dir: &Path, boot: u64, wanted: Arc<AtomicBool>) -> io::Result<Files> {
        let entries = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
        let flight = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "flight");
        let mut kept: Vec<PathBuf> = entries.filter(flight).collect();
        kept.sort();
        let (kept, dir) = (kept.into(), dir.to_path_buf());
        Ok(Files { dir, boot, count: 0, kept, current: None, size: 0, lost: 0, wanted })
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
        self.size = opening.len() as u64;
        self.kept.push_back(path);
        while self.kept.len() > KEPT {
            if let Some(oldest) = self.kept.pop_front() {
                fs::remove_file(oldest)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, record: &Record) -> io::Result<()> {
        let Some(file) = &mut self.current else {
            self.lost += 1;
            if self.lost.is_multiple_of(PASSED_OVER) {
                self.wanted.store(true, Ordering::Relaxed);
            }
            return Ok(());
        };
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let was_full = self.size > FILE_BYTES;
        self.size += line.len() as u64;
        if !was_full && self.size > FILE_BYTES {
            self.wanted.store(true, Ordering::Relaxed);
        }
        file.write_all(&line)
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
            if written.is_err() {
                // What was cut off cannot be gone on with: a recording has no holes.
                files.current = None;
            }
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
