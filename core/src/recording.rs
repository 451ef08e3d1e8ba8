//! Flight recordings: a checkpoint of a [`Node`] and what it handled since.
//!
//! Fed to the same code they reproduce every decision, byte for byte, on any machine; so a bug
//! report is a file. A recording names the version of core that made it, and no other replays it.
//! Text, one JSON document a line: [`Header`], the node, then [`Record`]s. Writing it down is the
//! runtime's business.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::time::Now;
use crate::{Effect, Event, Node};

/// The version of core: that of the crate and a fingerprint of its sources.
pub const CORE_VERSION: &str = env!("MILL_CORE_VERSION");

/// Version of the recording's own format.
pub const FORMAT: u32 = 1;

/// The first line of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub mill_flight: u32,
    /// [`CORE_VERSION`].
    pub core: String,
}

/// One event and what it led to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was handled.
    pub now: Now,
    /// What was handled.
    pub event: Event,
    /// Hash of the effects, see [`EffectHash`].
    pub effects: u64,
}

/// A running hash over effects.
#[derive(Clone, Default)]
pub struct EffectHash(Xxh3);

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// Events that were handled.
    pub events: u64,
    /// Effects that they led to.
    pub effects: u64,
    /// Whether the last line was cut off in the middle: the daemon died while it wrote.
    pub torn: bool,
}

/// Why a recording was not reproduced.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Not a recording.
    #[error("line {line} is not part of a flight recording")]
    Malformed {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It ends before the first event could come.
    #[error("the recording ends before its checkpoint; it was cut off while it was begun")]
    Empty,
    /// Another format.
    #[error("the recording has format {0}, this version reads {FORMAT}")]
    Format(u32),
    /// Another core.
    #[error(
        "the recording was made by core {found}, this is core {CORE_VERSION}; another version \
         decides differently, use the mill that made it"
    )]
    Version {
        /// The version that made it.
        found: String,
    },
    /// The same code decided otherwise: it looked at something that is not in its events.
    #[error("event {number} led to other effects than recorded: {event}")]
    Differs {
        /// Which event, from 1.
        number: u64,
        /// The event.
        event: String,
    },
}

impl EffectHash {
    /// Takes one more effect in.
    pub fn add(&mut self, effect: &Effect) {
        let bytes = serde_json::to_vec(effect).expect("effects have text keys only");
        self.0.update(&bytes);
        self.0.update(b"\n");
    }

    /// The hash of all that were taken in.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// The first two lines of a recording that begins with `node` as it is now.
pub fn opening(node: &Node) -> String {
    let header = Header { mill_flight: FORMAT, core: CORE_VERSION.to_owned() };
    let header = serde_json::to_string(&header).expect("a header is plain");
    let node = serde_json::to_string(node).expect("a node has text keys only");
    format!("{header}\n{node}\n")
}

/// Feeds a recording to this code; `watch` sees every event and its effects.
pub fn replay(
    lines: impl Iterator<Item = String>,
    mut watch: impl FnMut(&Record, &[Effect]),
) -> Result<Replay, ReplayError> {
    let mut lines = (1..).zip(lines).peekable();
    let (_, header) = lines.next().ok_or(ReplayError::Empty)?;
    let header: Header = parse(1, &header)?;
    if header.mill_flight != FORMAT {
        return Err(ReplayError::Format(header.mill_flight));
    }
    if header.core != CORE_VERSION {
        return Err(ReplayError::Version { found: header.core });
    }
    let (_, node) = lines.next().ok_or(ReplayError::Empty)?;
    // A daemon that died while it began the recording cut the checkpoint off.
    let cut_off = |error| if lines.peek().is_none() { ReplayError::Empty } else { error };
    let mut node: Node = parse(2, &node).map_err(cut_off)?;
    node.reindex();
    let mut found = Replay::default();
    while let Some((number, line)) = lines.next() {
        let record: Record = match parse(number, &line) {
            Ok(record) => record,
            Err(_) if lines.peek().is_none() => {
                found.torn = true;
                break;
            }
            Err(error) => return Err(error),
        };
        let (effects, hash) = handle(&mut node, record.now, record.event.clone());
        found.events += 1;
        found.effects += u64::try_from(effects.len()).unwrap_or(u64::MAX);
        watch(&record, &effects);
        if hash != record.effects {
            let event = format!("{:?}", record.event);
            return Err(ReplayError::Differs { number: found.events, event });
        }
    }
    Ok(found)
}

/// Hands an event to a node and takes all that it leads to.
pub fn handle(node: &mut Node, now: Now, event: Event) -> (Vec<Effect>, u64) {
    node.handle(now, event);
    let mut hash = EffectHash::default();
    let mut effects = Vec::new();
    while let Some(effect) = node.poll_effect() {
        hash.add(&effect);
        effects.push(effect);
    }
    (effects, hash.finish())
}

fn parse<T: for<'a> Deserialize<'a>>(line: u64, text: &str) -> Result<T, ReplayError> {
    serde_json::from_str(text).map_err(|source| ReplayError::Malformed { line, source })
}
