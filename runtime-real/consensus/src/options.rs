//! How consensus is tuned, with defaults that suit a cluster in one region.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::error::ConsensusError;

/// Identity and tuning. The defaults of [`Options::new`] suit a cluster in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// This node's id, unique in the cluster and never reused.
    pub node: u64,
    /// The cluster; a data directory belongs to one.
    pub cluster_name: String,
    /// A snapshot is taken after this many entries since the last; at least 1.
    pub snapshot_after: u64,
    /// Entries that stay in the log after a snapshot, so that a voter that was away briefly can
    /// catch up without it.
    pub entries_kept: u64,
    /// What one call carries of a snapshot, in bytes; at least 1.
    pub snapshot_piece_bytes: u64,
    /// How often a leader shows that it lives. openraft wakes up five times in each.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a random time in this range stands for election.
    pub election_min: Duration,
    /// See [`Options::election_min`].
    pub election_max: Duration,
}

impl Options {
    /// The defaults: a lost leader is replaced within about a second.
    #[must_use]
    pub fn new(node: u64, cluster_name: impl Into<String>) -> Options {
        Options {
            node,
            cluster_name: cluster_name.into(),
            snapshot_after: 10_000,
            entries_kept: 1_000,
            snapshot_piece_bytes: 1 << 20,
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
        }
    }

    /// Whose the data directory is, as its log records it.
    pub(super) fn owner(&self) -> String {
        format!("node {} of cluster {}", self.node, self.cluster_name)
    }

    pub(super) fn to_config(&self) -> Result<Config, ConsensusError> {
        if self.snapshot_after == 0 {
            return Err(ConsensusError::Options("snapshot_after must be at least 1".to_owned()));
        }
        if self.snapshot_piece_bytes == 0 {
            let text = "snapshot_piece_bytes must be at least 1".to_owned();
            return Err(ConsensusError::Options(text));
        }
        let config = Config {
            cluster_name: self.cluster_name.clone(),
            heartbeat_interval: milliseconds(self.heartbeat),
            election_timeout_min: milliseconds(self.election_min),
            election_timeout_max: milliseconds(self.election_max),
            enable_pre_vote: Some(true),
            // The committed index lags on disk, so a start must not resume an old leadership.
            enable_leader_restore: Some(false),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_after),
            max_in_snapshot_log_to_keep: self.entries_kept,
            snapshot_max_chunk_size: self.snapshot_piece_bytes,
            // For one piece of a snapshot, and for installing it after the last.
            install_snapshot_timeout: milliseconds(self.election_max * 4),
            // A node that cannot be reached is tried again after as long, and then less often.
            backoff: {
                let first = milliseconds(self.heartbeat).max(1);
                format!("{first}ms ..{}ms", first * 5)
            },
            ..Config::default()
        };
        config.validate().map_err(|error| ConsensusError::Options(error.to_string()))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
