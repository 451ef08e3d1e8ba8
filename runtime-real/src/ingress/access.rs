//! The access log: a JSON line for each finished request, in the node's data directory.
//!
//! Two files of bounded size, off the path of requests. A disk that refuses costs lines, never
//! service; lines that there was no room for are counted by the ingress.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use mill_ingress::AccessRecord;
use serde_json::json;
use tokio::sync::mpsc;

use crate::clock;

/// The file that is being written.
pub(crate) const FILE: &str = "access.log";
/// The file before it.
const OLD_FILE: &str = "access.log.1";
/// Bytes of a file until the next one begins.
const FILE_BYTES: u64 = 64 << 20;
/// Records that wait for the disk.
const WAITING: usize = 4_096;

/// Writes down what comes, until nobody can send any more.
pub(super) fn keep(data: &Path) -> mpsc::Sender<AccessRecord> {
    let (records, came) = mpsc::channel(WAITING);
    let data = data.to_owned();
    let writing = std::thread::Builder::new().name("access-log".to_owned());
    if let Err(error) = writing.spawn(move || write_all(&data, came)) {
        tracing::warn!(%error, "there is no access log in this run");
    }
    records
}

fn write_all(data: &Path, mut came: mpsc::Receiver<AccessRecord>) {
    let mut file = None;
    let mut said = false;
    while let Some(record) = came.blocking_recv() {
        let mut batch = vec![record];
        while let Ok(record) = came.try_recv() {
            batch.push(record);
        }
        match write(data, &mut file, &batch) {
            Ok(()) => said = false,
            Err(error) => {
                file = None;
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "requests are served, and not written down");
                }
            }
        }
    }
}

/// An open file and its bytes.
type Open = (BufWriter<File>, u64);

fn write(data: &Path, file: &mut Option<Open>, batch: &[AccessRecord]) -> io::Result<()> {
    for record in batch {
        let line = line(record);
        if file.as_ref().is_some_and(|(_, bytes)| *bytes >= FILE_BYTES) {
            *file = None;
            std::fs::rename(data.join(FILE), data.join(OLD_FILE))?;
        }
        if file.is_none() {
            *file = Some(open(data.join(FILE))?);
        }
        if let Some((writer, bytes)) = file {
            writer.write_all(line.as_bytes())?;
            *bytes += line.len() as u64;
        }
    }
    file.as_mut().map_or(Ok(()), |(writer, _)| writer.flush())
}

fn open(path: PathBuf) -> io::Result<Open> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((BufWriter::new(file), bytes))
}

fn line(record: &AccessRecord) -> String {
    let document = json!({
        "at": clock::wall().0,
        "client": record.client,
        "method": record.method,
        "host": record.host,
        "target": record.target,
        "request_id": record.request_id,
        "service": record.service,
        "status": record.status,
        "bytes": record.bytes_out,
        "took_us": u64::try_from(record.took.as_micros()).unwrap_or(u64::MAX),
    });
    format!("{document}\n")
}
