//! A large body, as a snapshot goes to another node, while the network is cut in the middle of it.

use std::time::Duration;

use mill_consensus::Call;
use mill_core::name::NodeId;
use tokio::time::Instant;

use super::cluster;
use super::log::number;
use super::stage::name_of;

/// As large as pieces of a snapshot may be.
const PIECE_BYTES: usize = 4 << 20;
const LIMIT: Duration = Duration::from_secs(5);
/// Whoever waits is woken a tick late.
const TICK: Duration = Duration::from_millis(2);

/// A piece that begins at `offset`.
fn piece(offset: u64) -> Vec<u8> {
    [offset.to_le_bytes().to_vec(), vec![7; PIECE_BYTES]].concat()
}

#[test]
fn a_piece_of_a_snapshot_that_is_cut_off_fails_in_time_and_goes_on_after_repair() {
    let (mut stage, _) = cluster(0, 2, 2);
    let send = |stage: &super::Stage, offset: u64| {
        stage.begin(1, move |machine| async move {
            let began = Instant::now();
            let wire = machine.running().wire;
            let sent = wire.call_consensus(NodeId(2), Call::Snapshot, piece(offset), LIMIT).await;
            (sent.map(|answer| number(&answer)), began.elapsed())
        })
    };
    let sending = send(&stage, 0);
    let (sent, whole) = stage.end(&sending);
    assert_eq!(sent.unwrap(), PIECE_BYTES as u64);
    assert!(whole > 20 * TICK && whole < LIMIT / 2, "there is a middle to cut in: {whole:?}");
    let sending = send(&stage, PIECE_BYTES as u64);
    stage.pass(whole / 2);
    stage.sim.partition(name_of(1), name_of(2));
    let (sent, until) = stage.end(&sending);
    sent.expect_err("half of it is on the other side");
    assert!(until <= LIMIT + TICK, "{until:?}");
    stage.sim.repair(name_of(1), name_of(2));
    // The connection that broke may not be known to be broken.
    let sent = loop {
        let sending = send(&stage, PIECE_BYTES as u64);
        let (sent, until) = stage.end(&sending);
        assert!(until <= LIMIT + TICK, "{until:?}");
        if let Ok(sent) = sent {
            break sent;
        }
    };
    assert_eq!(sent, 2 * PIECE_BYTES as u64, "once, and with nothing of the half");
}
