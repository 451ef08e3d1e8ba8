//! The log and the snapshots with a power cut at every operation of the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::codec;
use super::super::disk::{Disk, SimulatedDisk};
use super::super::error::{ConsensusError, in_full};
use super::super::handle::claim;
use super::super::log::{Change, LOG_FILE, LogFile, Marks};
use super::super::replay::Found;
use super::super::snapshots::Snapshots;
use super::super::types::{Entry, SnapshotImage, SnapshotMeta, StoredMembership, Vote};
use super::{entry, log_id};

const OWNER: &str = "node 1 of cluster test";
/// What survives of unsynced writes is drawn this often at every operation.
const SEEDS: u64 = 2;

/// What is asked of the directory, each durable when it returns.
enum Step {
    Write(Vec<Change>),
    Snapshot(u64),
}

/// What the directory holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    entries: BTreeMap<u64, Entry>,
    marks: Marks,
    snapshot: Option<(SnapshotMeta, SnapshotImage)>,
}

struct Open {
    log: LogFile,
    snapshots: Snapshots,
}

impl Open {
    /// As a start does it, with all its checks.
    fn new(disk: &SimulatedDisk) -> Result<Open, ConsensusError> {
        let claim = claim(disk)?;
        let log = LogFile::open(disk, claim.clone(), OWNER)?;
        let snapshots = Snapshots::open(Arc::new(disk.clone()), claim)?;
        Found::read(&log, &snapshots)?;
        Ok(Open { log, snapshots })
    }

    fn run(&self, step: &Step) -> Result<(), ConsensusError> {
        match step {
            Step::Write(changes) => self.log.write(changes),
            Step::Snapshot(last) => {
                let (meta, image) = snapshot(*last);
                self.snapshots.save(&meta, &image)
            }
        }
    }

    fn kept(&self) -> Kept {
        let entries = self.log.entries(0..u64::MAX).unwrap();
        let found = self.snapshots.load().unwrap();
        Kept {
            entries: entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect(),
            marks: self.log.marks().unwrap(),
            snapshot: found.map(|found| (found.meta, found.snapshot)),
        }
    }
}

impl Kept {
    fn apply(&mut self, step: &Step) {
        let changes = match step {
            Step::Write(changes) => changes,
            Step::Snapshot(last) => {
                self.snapshot = Some(snapshot(*last));
                return;
            }
        };
        for change in changes {
            match change {
                Change::Append { index, sealed } => {
                    self.entries.insert(*index, codec::decode_entry(sealed).unwrap());
                }
                Change::TruncateFrom { index } => {
                    self.entries.split_off(index);
                }
                Change::PurgeTo(upto) => {
                    self.entries = self.entries.split_off(&(upto.index + 1));
                    self.marks.purged = Some(*upto);
                }
                Change::Vote(vote) => self.marks.vote = Some(*vote),
                Change::Committed(upto) => self.marks.committed = Some(*upto),
            }
        }
    }

    /// What a leader of a later term writes on.
    fn more(&self) -> Step {
        let first = self.entries.last_key_value().map_or(0, |(index, _)| index + 1);
        Step::Write(vec![append(3, first, 100)])
    }

    fn after(&self, step: &Step) -> Kept {
        let mut kept = self.clone();
        kept.apply(step);
        kept
    }
}

fn snapshot(last: u64) -> (SnapshotMeta, SnapshotImage) {
    let last_membership = StoredMembership::default();
    let meta = SnapshotMeta { last_log_id: Some(log_id(1, last)), last_membership };
    (meta, SnapshotImage { index: last, bytes: vec![u8::try_from(last).unwrap(); 3000] })
}

fn append(term: u64, index: u64, size: usize) -> Change {
    let sealed = codec::encode_entry(&entry(term, index, &vec![b'a'; size]));
    Change::Append { index, sealed }
}

/// A life of a log: votes, appends small and large, a leader that overrules, snapshots, purges.
fn life() -> Vec<Step> {
    let mut steps = vec![
        Step::Write(vec![Change::Vote(Vote::new_committed(1, 1))]),
        Step::Write(vec![append(1, 0, 10), append(1, 1, 10), Change::Committed(log_id(1, 1))]),
        Step::Write(vec![append(1, 2, 5000)]),
        Step::Write((3..8).map(|index| append(1, index, 700)).collect()),
        Step::Write(vec![Change::TruncateFrom { index: 6 }]),
        Step::Write(vec![Change::Vote(Vote::new(2, 1)), Change::Committed(log_id(1, 5))]),
        Step::Snapshot(3),
        Step::Write(vec![Change::PurgeTo(log_id(1, 2)), append(2, 6, 20)]),
        Step::Write((7..30).map(|index| append(2, index, 2000)).collect()),
        Step::Snapshot(5),
        Step::Write(vec![Change::PurgeTo(log_id(1, 5))]),
    ];
    steps.extend((30..34).map(|index| Step::Write(vec![append(2, index, 40)])));
    steps
}

/// Runs until the power fails; what is held for sure, and what was under way.
fn live(disk: &SimulatedDisk, steps: &[Step]) -> (Kept, Option<Kept>) {
    let mut sure = Kept::default();
    let Ok(open) = Open::new(disk) else { return (sure, None) };
    for step in steps {
        match open.run(step) {
            Ok(()) => sure.apply(step),
            Err(_) => {
                let maybe = sure.after(step);
                return (sure, Some(maybe));
            }
        }
    }
    (sure, None)
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_that_was_acknowledged() {
    let whole = SimulatedDisk::new();
    let (all, cut) = live(&whole, &life());
    assert_eq!((cut, all.entries.len()), (None, 28));
    let operations = whole.operations().all;
    assert!(operations > 60, "{operations} operations are too few to tell");
    let mut torn = 0;
    for at in 1..=operations {
        for seed in at * SEEDS..(at + 1) * SEEDS {
            let disk = SimulatedDisk::new();
            disk.cut_power_at(at);
            let (sure, maybe) = live(&disk, &life());
            assert!(disk.is_off(), "operation {at} comes");
            disk.restart(seed);
            torn += u64::from(goes_on(&disk, &sure, maybe.as_ref(), (at, seed)));
        }
    }
    assert!(torn > 0, "what was under way was kept whole only {torn} times");
}

/// Checks what is there and writes on, through a second power cut while it recovers. True if what
/// was under way at the first is there.
fn goes_on(disk: &SimulatedDisk, sure: &Kept, maybe: Option<&Kept>, case: (u64, u64)) -> bool {
    let (at, seed) = case;
    let before = disk.operations().all;
    disk.cut_power_at(before + 1 + (at * 7 + seed * 13) % 40);
    let opened = Open::new(disk);
    if let Ok(open) = &opened {
        let kept = open.kept();
        assert!(kept == *sure || Some(&kept) == maybe, "cut at {at}, seed {seed}: {kept:?}");
        // It may fail: the power goes again somewhere here.
        let _ = open.run(&kept.more());
    } else {
        assert!(disk.is_off(), "cut at {at}, seed {seed}: {}", in_full(&opened.err().unwrap()));
    }
    disk.restart(seed + 100);

    let open = Open::new(disk).unwrap_or_else(|error| {
        panic!("cut at {at}, seed {seed}, and again: {}", in_full(&error));
    });
    let kept = open.kept();
    let could_be: Vec<Kept> = [Some(sure), maybe]
        .into_iter()
        .flatten()
        .flat_map(|k| [k.clone(), k.after(&k.more())])
        .collect();
    assert!(could_be.contains(&kept), "cut at {at}, seed {seed}, and again: {kept:?}");
    open.run(&kept.more()).unwrap();
    let expected = kept.after(&kept.more());
    drop(open);
    disk.restart(seed + 200);
    assert_eq!(Open::new(disk).unwrap().kept(), expected, "cut at {at}, seed {seed}, then on");
    Some(&kept) == maybe
}

#[test]
fn a_damaged_entry_is_noticed_and_nothing_is_dropped_silently() {
    let disk = SimulatedDisk::new();
    let open = Open::new(&disk).unwrap();
    let sealed = |index| codec::encode_entry(&entry(1, index, format!("entry {index}").as_bytes()));
    for index in 0..5 {
        open.run(&Step::Write(vec![Change::Append { index, sealed: sealed(index) }])).unwrap();
    }
    drop(open);
    assert!(disk.damage(LOG_FILE, b"entry 4"));
    let error = Open::new(&disk).err().expect("a log with a flipped byte does not open");
    let text = in_full(&error);
    println!("{text}");
    assert!(matches!(error, ConsensusError::Damaged { .. }), "{text}");
    assert!(text.contains("simulated-disk/log.redb") && text.contains("backup"), "{text}");
}

#[test]
fn a_hole_in_the_log_is_noticed() {
    let disk = SimulatedDisk::new();
    let open = Open::new(&disk).unwrap();
    open.run(&Step::Write(vec![append(1, 0, 1), append(1, 2, 1)])).unwrap();
    drop(open);
    let text = in_full(&Open::new(&disk).err().unwrap());
    assert!(text.contains("entries before 2 are missing"), "{text}");
    let disk = SimulatedDisk::new();
    let open = Open::new(&disk).unwrap();
    let purged = vec![append(1, 0, 1), append(1, 1, 1), Change::PurgeTo(log_id(1, 0))];
    open.run(&Step::Write(purged)).unwrap();
    drop(open);
    let text = in_full(&Open::new(&disk).err().unwrap());
    assert!(text.contains("no snapshot has them"), "{text}");
}

#[test]
fn a_log_of_another_node_or_a_newer_mill_is_refused() {
    let disk = SimulatedDisk::new();
    drop(Open::new(&disk).unwrap());
    let text = in_full(
        &LogFile::open(&disk, claim(&disk).unwrap(), "node 2 of cluster test").err().unwrap(),
    );
    assert!(text.contains("belongs to node 1 of cluster test"), "{text}");
    assert!(text.contains("this daemon is node 2 of cluster test"), "{text}");
    let first = Open::new(&disk).unwrap();
    let error = claim(&disk).err().unwrap();
    assert!(matches!(error, ConsensusError::InUse { .. }), "{error}");
    drop(first);
    assert_eq!(disk.names().unwrap(), [LOG_FILE]);
    Open::new(&disk).unwrap();
}
