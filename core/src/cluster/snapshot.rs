//! The state as bytes: what the log keeps instead of old entries, and what `--state` reads.
//!
//! JSON behind a format number: readable, and fields can be added without a new format.

use serde::{Deserialize, Serialize};

use super::Cluster;
use crate::mutant::{self, Mutant};

/// Version of the encoding; raised when an older reader would misread it.
pub const SNAPSHOT_FORMAT: u32 = 2;

/// Why bytes are not a state that this version reads.
#[derive(Debug, thiserror::Error)]
pub enum BadSnapshot {
    /// Written by a version that this one does not know.
    #[error(
        "the state has format {found}, this version reads up to {SNAPSHOT_FORMAT}; use a newer mill"
    )]
    Newer {
        /// The format that was found.
        found: u32,
    },
    /// Written before anybody was promised that it could be read.
    #[error(
        "the state has format {found} of an early version, this one reads {SNAPSHOT_FORMAT}; begin \
         a new cluster"
    )]
    Older {
        /// The format that was found.
        found: u32,
    },
    /// Not a state at all.
    #[error("this is not a cluster's state; write one with `mill status --state`")]
    Malformed(#[source] serde_json::Error),
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    cluster: &'a Cluster,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Deserialize)]
struct Read {
    cluster: Cluster,
}

impl Cluster {
    /// The state as bytes; equal states give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let written = Written { format: SNAPSHOT_FORMAT, cluster: self };
        serde_json::to_vec(&written).expect("maps have text keys and nothing else can fail")
    }

    /// Reads what [`Cluster::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Cluster, BadSnapshot> {
        let Format { format } = serde_json::from_slice(bytes).map_err(BadSnapshot::Malformed)?;
        if format > SNAPSHOT_FORMAT {
            return Err(BadSnapshot::Newer { found: format });
        }
        if format < SNAPSHOT_FORMAT {
            return Err(BadSnapshot::Older { found: format });
        }
        let Read { mut cluster } = serde_json::from_slice(bytes).map_err(BadSnapshot::Malformed)?;
        if mutant::is(Mutant::SnapshotLosesField) {
            cluster.intent = 0;
        }
        if !mutant::is(Mutant::SnapshotLosesIndex) {
            cluster.index();
        }
        Ok(cluster)
    }
}
