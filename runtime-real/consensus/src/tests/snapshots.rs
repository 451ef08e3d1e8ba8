//! Snapshot files: whole, checked, one at a time.

use std::sync::Arc;

use super::super::disk::{Disk, SimulatedDisk};
use super::super::error::{ConsensusError, in_full};
use super::super::snapshots::Snapshots;
use super::super::types::{SnapshotImage, SnapshotMeta, StoredMembership};
use super::log_id;

/// Nobody else claims the directory here.
fn open(disk: &SimulatedDisk) -> Snapshots {
    let claim = SimulatedDisk::new().claim().unwrap();
    Snapshots::open(Arc::new(disk.clone()), Arc::new(claim)).unwrap()
}

fn save(snapshots: &Snapshots, last: u64, text: &str) {
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(1, last)),
        last_membership: StoredMembership::default(),
    };
    let image = SnapshotImage { index: last, bytes: text.as_bytes().to_vec() };
    snapshots.save(&meta, &image).unwrap();
}

fn load(snapshots: &Snapshots) -> Option<(u64, String)> {
    let found = snapshots.load().unwrap()?;
    Some((found.snapshot.index, String::from_utf8(found.snapshot.bytes).unwrap()))
}

#[test]
fn only_the_newest_snapshot_is_kept_and_found_again() {
    let disk = SimulatedDisk::new();
    let snapshots = open(&disk);
    let reopened = || open(&disk);
    assert_eq!(load(&snapshots), None);
    for last in [5, 9, 100] {
        save(&snapshots, last, &format!("state at {last}"));
        let expected = Some((last, format!("state at {last}")));
        assert_eq!((load(&snapshots), load(&reopened())), (expected.clone(), expected));
        assert_eq!(disk.names().unwrap(), [format!("snapshot-{last:020}")]);
    }
    save(&snapshots, 9, "older");
    assert_eq!(load(&snapshots), Some((100, "state at 100".to_owned())));
}

#[test]
fn what_a_crash_left_behind_is_removed() {
    let disk = SimulatedDisk::new();
    save(&open(&disk), 7, "good");
    for name in ["snapshot.tmp", "snapshot-00000000000000000003"] {
        disk.open(name).unwrap().write_at(0, b"half").unwrap();
    }
    let snapshots = open(&disk);
    assert_eq!(load(&snapshots), Some((7, "good".to_owned())));
    assert_eq!(disk.names().unwrap().len(), 1);
}

#[test]
fn a_damaged_snapshot_is_refused_with_its_path() {
    let name = "snapshot-00000000000000000007";
    for needle in ["MILLSNAP", "last_log_id", "good"] {
        let disk = SimulatedDisk::new();
        let snapshots = open(&disk);
        save(&snapshots, 7, "good");
        assert!(disk.damage(name, needle.as_bytes()), "{needle}");
        let error = snapshots.load().unwrap_err();
        assert!(matches!(error, ConsensusError::Damaged { .. }), "{needle}: {}", in_full(&error));
        assert!(error.to_string().contains(name), "{error}");
    }
    let disk = SimulatedDisk::new();
    let snapshots = open(&disk);
    save(&snapshots, 7, "good");
    let file = disk.open(name).unwrap();
    for length in 0..file.len().unwrap() {
        let shorter = SimulatedDisk::new();
        let snapshots = open(&shorter);
        save(&snapshots, 7, "good");
        shorter.open(name).unwrap().set_len(length).unwrap();
        assert!(snapshots.load().is_err(), "cut at {length}");
    }
    file.write_at(8, &99_u32.to_le_bytes()).unwrap();
    let error = snapshots.load().unwrap_err();
    assert!(matches!(error, ConsensusError::Newer { found: 99, .. }), "{error}");
}
