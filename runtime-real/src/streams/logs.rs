//! What the containers of this node print, merged in time order.
//!
//! What was written before comes sorted; with `follow`, what is written from then on comes as it
//! is written: also of allocs that are placed later, of containers that are started again, and
//! across engines that go away for a while. Each line comes once. What keeps output from being
//! read is told in its place.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use futures_util::stream::{BoxStream, StreamExt as _};
use mill_core::api::{ApiError, ErrorCode};
use mill_core::container::{OpError, OpErrorKind};
use mill_core::name::AllocId;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Duration;

use super::Streams;
use super::frame::{Frame, Receiver, Sender};
use super::place::{Copy, is_named};
use crate::clock;
use crate::docker::{LogLine, LogOptions};

/// How often a follower looks for allocs that were placed since, and at a container that ended.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Lines that wait for a slow reader.
pub(super) const LINES_WAITING: usize = 256;

/// Which lines of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NodeLogs {
    /// Services, slots or allocs; all when empty.
    pub(super) names: Vec<String>,
    /// Allocs of that node that are meant; it may know of more.
    pub(super) allocs: BTreeSet<AllocId>,
    /// Lines of each alloc to begin with.
    pub(super) tail: u32,
    pub(super) follow: bool,
    /// Milliseconds since the Unix epoch.
    pub(super) since: Option<u64>,
    /// Also allocs that have ended.
    pub(super) all: bool,
    /// Nothing of before is wanted: who asks has read up to there.
    pub(super) from: Option<Places>,
}

/// Up to where the output of a node's allocs was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Places {
    /// That of every alloc that is not among the others.
    pub(super) begun: Place,
    pub(super) allocs: BTreeMap<AllocId, Place>,
}

/// Up to where the output of an alloc was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// When the last line was written; nothing that is older is sent.
    at: u64,
    /// Lines of that very millisecond that were sent.
    sent: u64,
}

impl Place {
    /// Before every line of that millisecond.
    pub(super) fn at(at: u64) -> Place {
        Place { at, sent: 0 }
    }

    /// A line of that millisecond was sent.
    pub(super) fn pass(&mut self, at: u64) {
        match at.cmp(&self.at) {
            Ordering::Greater => *self = Place { at, sent: 1 },
            Ordering::Equal => self.sent += 1,
            // Output and errors may come in another order than that in which they were written.
            Ordering::Less => {}
        }
    }
}

/// What people and programs are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Told {
    /// A line.
    Line {
        /// Whose.
        alloc: AllocId,
        /// What.
        #[serde(flatten)]
        line: LogLine,
    },
    /// Something cannot be read just now.
    Trouble {
        /// Whose output.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alloc: Option<AllocId>,
        /// Or that of everything on a node: its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// Why.
        error: String,
    },
}

/// What a node tells whoever merges.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// From then on everything is a follower's, whatever becomes of what was before.
    Begun(Place),
    /// All that was written before was sent, up to there.
    Caught(Places),
    /// A line or a trouble.
    Told(Told),
}

/// Where words go.
pub(super) type Words = mpsc::Sender<Word>;

/// Answers another node.
pub(super) async fn answer(
    streams: Streams,
    query: NodeLogs,
    mut sender: Sender,
    mut receiver: Receiver,
) -> io::Result<()> {
    let (words, mut waiting) = mpsc::channel(LINES_WAITING);
    // It ends with this.
    let mut telling = JoinSet::new();
    telling.spawn(tell(streams, query, words));
    loop {
        tokio::select! {
            word = waiting.recv() => match word {
                Some(word) => {
                    let json = serde_json::to_vec(&word).expect("a line has text keys only");
                    match sender.send(Frame::Data(json.into())).await {
                        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                            let error = ApiError::new(ErrorCode::Internal, error.to_string());
                            return sender.send(Frame::Failed(error)).await;
                        }
                        sent => sent?,
                    }
                }
                None => break,
            },
            // Who asked has nothing more to say than that it is gone.
            _ = receiver.next() => return Ok(()),
        }
    }
    sender.send(Frame::Exited(0)).await
}

/// Tells what is asked for, until that is all, or nobody listens any more.
pub(super) async fn tell(streams: Streams, query: NodeLogs, words: Words) {
    // What is written from now on is a follower's.
    let begun = Place::at(clock::wall().0);
    let places = match query.from.clone() {
        Some(from) => from,
        None => {
            if words.send(Word::Begun(begun)).await.is_err() {
                return;
            }
            let past = tokio::select! {
                past = send_past(&streams, &query, &words) => past,
                // An engine that hangs may never say what it was asked.
                () = words.closed() => return,
            };
            let Some(allocs) = past else { return };
            Places { begun, allocs }
        }
    };
    if words.send(Word::Caught(places.clone())).await.is_ok() && query.follow {
        follow(streams, query, places, words).await;
    }
}

/// An alloc that the query names.
struct Named {
    id: AllocId,
    has_ended: bool,
}

/// Allocs of this node that the query names, as far as this node's copy knows.
async fn named(streams: &Streams, query: &NodeLogs) -> Vec<Named> {
    // Its own copy can always be asked, but while the daemon stops.
    let views = streams.allocs(Copy::Own).await.unwrap_or_default();
    let wanted = views.into_iter().filter(|view| {
        let live = query.all || !view.phase.is_end();
        let named =
            || query.names.is_empty() || query.names.iter().any(|name| is_named(name, view));
        query.allocs.contains(&view.id) || (*view.node == *streams.name && live && named())
    });
    wanted.map(|view| Named { has_ended: view.phase.is_end(), id: view.id }).collect()
}

/// Sends what was written before, merged in time order: one line of each alloc is held at a time.
/// Says up to where; `None` if nobody reads any more.
async fn send_past(
    streams: &Streams,
    query: &NodeLogs,
    words: &Words,
) -> Option<BTreeMap<AllocId, Place>> {
    let tail = query.tail;
    let options = LogOptions { follow: false, tail: Some(tail), since: query.since };
    let mut allocs = query.allocs.clone();
    allocs.extend(named(streams, query).await.into_iter().map(|alloc| alloc.id));
    let mut sources: Vec<Past> =
        allocs.iter().map(|alloc| Past::of(streams, alloc, options.clone())).collect();
    for source in &mut sources {
        source.advance(words).await;
    }
    loop {
        let next = sources.iter_mut().filter(|source| source.head.is_some());
        let next = next.min_by_key(|source| source.head.as_ref().map(|line| line.at));
        let Some(source) = next else { break };
        if let Some(line) = source.head.take() {
            source.place.get_or_insert(Place::at(line.at)).pass(line.at);
            source.count += 1;
            words.send(line_of(&source.alloc, line)).await.ok()?;
        }
        source.advance(words).await;
    }
    let places = sources.into_iter().filter_map(|source| {
        let mut place = source.place?;
        if place.sent == u64::from(tail) && source.count == place.sent {
            // More than was asked for is of this millisecond: how much more is not known.
            place = Place::at(place.at + 1);
        }
        Some((source.alloc, place))
    });
    Some(places.collect())
}

fn line_of(alloc: &AllocId, line: LogLine) -> Word {
    Word::Told(Told::Line { alloc: alloc.clone(), line })
}

/// The output of an alloc until now.
struct Past {
    alloc: AllocId,
    from: BoxStream<'static, Result<LogLine, OpError>>,
    head: Option<LogLine>,
    place: Option<Place>,
    count: u64,
}

impl Past {
    fn of(streams: &Streams, alloc: &AllocId, options: LogOptions) -> Past {
        let from = streams.engine.logs(alloc.clone(), options).boxed();
        Past { alloc: alloc.clone(), from, head: None, place: None, count: 0 }
    }

    async fn advance(&mut self, words: &Words) {
        self.head = match self.from.next().await {
            Some(Ok(line)) => Some(line),
            Some(Err(error)) => {
                trouble(&self.alloc, error, words).await;
                None
            }
            None => None,
        };
    }
}

/// Tells why an alloc cannot be read, unless its container is just not there: its last lines are
/// in `why` then.
async fn trouble(alloc: &AllocId, error: OpError, words: &Words) {
    if error.kind != OpErrorKind::Gone {
        let alloc = Some(alloc.clone());
        let told = Told::Trouble { alloc, node: None, error: error.detail };
        // Who does not read any more is noticed with the next line.
        let _ = words.send(Word::Told(told)).await;
    }
}

/// Follows every alloc from its place on, and those that come later from their beginning.
async fn follow(streams: Streams, query: NodeLogs, places: Places, words: Words) {
    let (live, watched) = watch::channel(BTreeSet::new());
    let mut known: BTreeSet<AllocId> = BTreeSet::new();
    while !words.is_closed() {
        let found = named(&streams, &query).await;
        let running = found.iter().filter(|alloc| !alloc.has_ended);
        live.send_replace(running.map(|alloc| alloc.id.clone()).collect());
        for Named { id, .. } in found {
            if known.insert(id.clone()) {
                let place = places.allocs.get(&id).copied().unwrap_or(places.begun);
                let follower = Follower { alloc: id, place, has_told: false };
                tokio::spawn(follower.run(streams.clone(), watched.clone(), words.clone()));
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Follows one alloc through the lives of its container and of the engine.
struct Follower {
    alloc: AllocId,
    place: Place,
    /// Whether it was told why there is nothing to read, since there last was.
    has_told: bool,
}

impl Follower {
    async fn run(
        mut self,
        streams: Streams,
        live: watch::Receiver<BTreeSet<AllocId>>,
        words: Words,
    ) {
        loop {
            let is_live = live.borrow().contains(&self.alloc);
            tokio::select! {
                () = self.life(&streams, &words) => {}
                () = words.closed() => return,
            }
            if !is_live {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Reads on until the container ends, or the engine.
    async fn life(&mut self, streams: &Streams, words: &Words) {
        let from = self.place;
        let mut again = from.sent;
        let options = LogOptions { follow: true, tail: None, since: Some(from.at) };
        let mut read = streams.engine.logs(self.alloc.clone(), options).boxed();
        while let Some(line) = read.next().await {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    if !std::mem::replace(&mut self.has_told, true) {
                        trouble(&self.alloc, error, words).await;
                    }
                    return;
                }
            };
            self.has_told = false;
            if line.at == from.at && again > 0 {
                again -= 1;
                continue;
            }
            self.place.pass(line.at);
            if words.send(line_of(&self.alloc, line)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_of_its_own_millisecond_alone() {
        let mut place = Place::at(5);
        for at in [5, 5, 4, 3, 5] {
            place.pass(at);
        }
        assert_eq!((place.at, place.sent), (5, 3));
        place.pass(6);
        assert_eq!((place.at, place.sent), (6, 1));
    }
}
