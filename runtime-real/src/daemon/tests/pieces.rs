//! A large body, as a snapshot goes to another node, while the network is cut in the middle of it.

use std::io;
use std::time::Duration;

use mill_consensus::Call;
use mill_core::name::NodeId;
use tokio::time::Instant;

use super::cluster;
use super::log::number;
use super::stage::{Begun, Stage, name_of};

/// As large as a call's body may be, about: more round trips on a fresh connection.
const PIECE_BYTES: usize = 4 << 20;
const LIMIT: Duration = Duration::from_secs(5);
/// The world goes on in ticks, so a limit may be seen one late.
const TICK: Duration = Duration::from_millis(1);

/// Node 1 sends node 2 the piece that begins there: how much that has, and how long it took.
fn send(stage: &Stage, offset: u64, limit: Duration) -> Begun<(io::Result<u64>, Duration)> {
    let body = [offset.to_le_bytes().to_vec(), vec![7; PIECE_BYTES]].concat();
    stage.begin(1, move |machine| async move {
        let began = Instant::now();
        let wire = machine.running().wire;
        let sent = wire.call_consensus(NodeId(2), Call::Snapshot, body, limit).await;
        (sent.map(|answer| number(&answer)), began.elapsed())
    })
}

#[test]
fn a_piece_of_a_snapshot_that_is_cut_off_fails_in_time_and_goes_on_after_repair() {
    for seed in 0..3 {
        let (mut stage, _) = cluster(seed, 2, 2);
        let sending = send(&stage, 0, LIMIT);
        let (sent, whole) = stage.end(&sending);
        assert_eq!(sent.unwrap(), PIECE_BYTES as u64);
        assert!(whole > 20 * TICK, "there is a middle to cut in: {whole:?}");
        // The same again, but cut at its half.
        let (mut stage, _) = cluster(seed, 2, 2);
        let sending = send(&stage, 0, LIMIT);
        stage.pass(whole / 2);
        stage.sim.partition(name_of(1), name_of(2));
        let (sent, until) = stage.end(&sending);
        sent.expect_err("half of it is on the other side");
        assert!(until <= LIMIT + TICK, "seed {seed}: {until:?}");
        stage.sim.repair(name_of(1), name_of(2));
        goes_on(&mut stage);
    }
}

#[test]
fn of_a_body_whose_sender_gave_up_in_the_middle_nothing_is_taken() {
    let (mut stage, _) = cluster(0, 2, 2);
    let short = 20 * TICK;
    let sending = send(&stage, 0, short);
    let (sent, _) = stage.end(&sending);
    assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
    goes_on(&mut stage);
}

/// The piece is sent until it arrives, and so is the one that follows it.
fn goes_on(stage: &mut Stage) {
    let mut has = 0;
    let mut failed = 0;
    while has < 2 * PIECE_BYTES as u64 {
        let sending = send(stage, has, LIMIT);
        let (sent, until) = stage.end(&sending);
        assert!(until <= LIMIT + TICK, "{until:?}");
        match sent {
            Ok(now) => {
                assert_eq!(now, has + PIECE_BYTES as u64, "once, and nothing of the half");
                has = now;
            }
            // That the connection is broken may not be known yet.
            Err(_) => failed += 1,
        }
        assert!(failed <= 2, "it is mended");
    }
}
