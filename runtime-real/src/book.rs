//! The address book on disk: where the other nodes were when this one last knew, so that it can
//! speak to them before it has read the log again, or any of it.
//!
//! A copy of what the log says, and no more than that. Without one that can be read, a node takes
//! what its own part of the log says, which may be older.

use std::io;
use std::path::{Path, PathBuf};

use mill_core::effect::Book;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::private;

/// Where in the data directory.
pub(crate) const FILE: &str = "peers.json";
/// The same while it is written.
pub(crate) const BESIDE: &str = "peers.new";

/// The book of a data directory, if there is one.
pub(crate) fn read(data: &Path) -> Option<Book> {
    let path = data.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the address book cannot be read");
            return None;
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(book) => Some(book),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the address book is damaged");
            None
        }
    }
}

/// Puts one into a data directory.
pub(crate) fn keep(book: &Book, data: &Path) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(book).expect("books have text keys only");
    private::replace(&data.join(FILE), &bytes)
}

/// Takes it out of a data directory: who is in it is asked no more.
pub(crate) fn forget(data: &Path) -> io::Result<()> {
    match std::fs::remove_file(data.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes down each book that it is given, or the latest where they come faster than the disk is.
pub(crate) fn keeper(data: PathBuf) -> (watch::Sender<Book>, JoinHandle<()>) {
    let (latest, mut given) = watch::channel(Book::default());
    let keeping = tokio::spawn(async move {
        while given.changed().await.is_ok() {
            let (book, data) = (given.borrow_and_update().clone(), data.clone());
            match tokio::task::spawn_blocking(move || keep(&book, &data)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the address book cannot be written"),
                Err(panic) => tracing::error!(%panic, "the address book was not written"),
            }
        }
    });
    (latest, keeping)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mill_core::effect::Peer;
    use mill_core::name::NodeId;

    use super::*;

    fn book() -> Book {
        let peer = Peer { rpc: "192.0.2.1:7400".to_owned(), key: "ab".to_owned(), mesh: None };
        Book { peers: BTreeMap::from([(NodeId(3), peer)]), known_below: NodeId(4), mesh_only: true }
    }

    #[test]
    fn a_book_is_read_as_it_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), None);
        keep(&book(), dir.path()).unwrap();
        assert_eq!(read(dir.path()), Some(book()));
        forget(dir.path()).unwrap();
        forget(dir.path()).unwrap();
        assert_eq!(read(dir.path()), None);
    }

    #[test]
    fn a_damaged_book_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(read(dir.path()), None);
    }

    #[tokio::test]
    async fn the_latest_book_is_on_disk_once_its_keeper_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (latest, keeping) = keeper(dir.path().to_path_buf());
        latest.send_replace(Book::default());
        latest.send_replace(book());
        drop(latest);
        keeping.await.unwrap();
        assert_eq!(read(dir.path()), Some(book()));
    }
}
