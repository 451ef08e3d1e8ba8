//! What the containers of all nodes print, merged in time order: each node sorts its own, and
//! whoever was asked puts the nodes' together.
//!
//! A node that does not answer is named, and costs the others nothing: what was written before is
//! waited for only so long. Whoever follows gets what that node has to say when it answers again,
//! from where it was read before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem;

use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, SelectAll, StreamExt as _};
use mill_core::api::view::AllocView;
use mill_core::api::{ApiError, ErrorCode};
use mill_core::name::{AllocId, NodeId};
use tokio::sync::mpsc;
use tokio::time::{Duration, interval, sleep, timeout};

use super::frame::Frame;
use super::logs::{LINES_WAITING, NodeLogs, Place, Places, Told, Word, Words, tell};
use super::place::{Copy, is_named};
use super::{Here, Streams};
use crate::rpc::CallError;

/// A node from which nothing of what was written before comes for so long is not waited for. It is
/// more than what it takes to find out that a node is gone.
const SILENT_FOR: Duration = Duration::from_secs(6);
/// Between two tries to reach a node that does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often is looked for nodes that hold now what is followed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Which lines of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct LogsWish {
    /// Services, slots or allocs; all when empty.
    pub(crate) names: Vec<String>,
    /// Lines of each alloc to begin with.
    pub(crate) tail: u32,
    pub(crate) follow: bool,
    /// Milliseconds since the Unix epoch.
    pub(crate) since: Option<u64>,
    /// Also allocs that have ended.
    pub(crate) all: bool,
}

/// Allocs that are meant, by their nodes' names.
type ByNode = BTreeMap<String, BTreeSet<AllocId>>;

impl LogsWish {
    fn of(&self, views: Vec<AllocView>) -> ByNode {
        let mut found = ByNode::new();
        let named = |view: &AllocView| self.names.iter().any(|name| is_named(name, view));
        let wanted = views.into_iter().filter(|view| {
            (self.all || !view.phase.is_end()) && (self.names.is_empty() || named(view))
        });
        for view in wanted {
            found.entry(view.node).or_default().insert(view.id);
        }
        found
    }

    fn on_node(&self, allocs: BTreeSet<AllocId>, from: Option<Places>) -> NodeLogs {
        let LogsWish { names, tail, follow, since, all } = self.clone();
        NodeLogs { names, allocs, tail, follow, since, all, from }
    }
}

impl Streams {
    /// What is asked for, line by line, until that is all or it is not read any more.
    ///
    /// # Errors
    /// When nothing is called that, or too much is read already.
    pub(crate) async fn logs(&self, wish: LogsWish) -> Result<mpsc::Receiver<Told>, ApiError> {
        let place = self.place()?;
        let views = self.allocs(Copy::Newest).await?;
        for name in &wish.names {
            if !views.iter().any(|view| is_named(name, view)) {
                let message = format!("no service, slot or alloc `{name}` has any output");
                let error = ApiError::new(ErrorCode::NotFound, message);
                return Err(error.hint("`mill ps` lists what there is"));
            }
        }
        let (told, receiver) = mpsc::channel(LINES_WAITING);
        let by_node = wish.of(views);
        let (streams, asked, unknown) = (self.clone(), BTreeMap::new(), BTreeMap::new());
        let merge = Merge { streams, wish, asked, unknown, told };
        tokio::spawn(async move {
            merge.run(by_node).await;
            drop(place);
        });
        Ok(receiver)
    }
}

struct Merge {
    streams: Streams,
    wish: LogsWish,
    /// Nodes that were asked, and their names. One that joins again has another number.
    asked: BTreeMap<NodeId, String>,
    /// Nodes that are to be asked once they are known, and from where on.
    unknown: BTreeMap<String, Option<Places>>,
    told: mpsc::Sender<Told>,
}

impl Merge {
    async fn run(mut self, by_node: ByNode) {
        let mut sources = self.begin(by_node, None).await;
        if self.past(&mut sources).await.is_none() || !self.wish.follow {
            return;
        }
        let mut live: SelectAll<BoxStream<'static, Word>> = SelectAll::new();
        live.extend(sources.into_iter().map(|source| stream_of(source.words)));
        let mut look = interval(LOOK_AGAIN);
        loop {
            tokio::select! {
                Some(word) = live.next() => {
                    if let Word::Told(told) = word && self.told.send(told).await.is_err() {
                        return;
                    }
                }
                _ = look.tick() => {
                    // Its own copy can always be asked, but while the daemon stops.
                    let views = self.streams.allocs(Copy::Own).await.unwrap_or_default();
                    let by_node = self.wish.of(views);
                    // What came to a node that had nothing of it is read from its beginning.
                    let sources = self.begin(by_node, Some(Places::default())).await;
                    live.extend(sources.into_iter().map(|source| stream_of(source.words)));
                }
                () = self.told.closed() => return,
            }
        }
    }

    /// Asks those nodes for what they hold that were not asked yet.
    async fn begin(&mut self, by_node: ByNode, from: Option<Places>) -> Vec<Source> {
        if by_node.is_empty() {
            return Vec::new();
        }
        let numbers = self.streams.numbers().await.unwrap_or_default();
        let mut sources = Vec::new();
        for (name, allocs) in by_node {
            let Some(node) = numbers.get(&name).copied() else {
                self.wait_for(name, from.clone()).await;
                continue;
            };
            if self.asked.insert(node, name.clone()).is_some() {
                continue;
            }
            let (words, waiting) = mpsc::channel(LINES_WAITING);
            let from = self.unknown.remove(&name).unwrap_or_else(|| from.clone());
            let query = self.wish.on_node(allocs, from);
            let streams = self.streams.clone();
            if node == streams.node {
                tokio::spawn(tell(streams, query, words));
            } else {
                let name = name.clone();
                tokio::spawn(Asker::new(streams, (node, name), query, words).run());
            }
            sources.push(Source { node: name, words: waiting, head: None });
        }
        sources
    }

    /// Of a node that this one has not heard of yet.
    async fn wait_for(&mut self, name: String, from: Option<Places>) {
        let was_asked = self.asked.values().any(|known| *known == name);
        // One that was asked was removed, and has said what it had to say.
        if was_asked || self.unknown.contains_key(&name) {
            return;
        }
        let is_live = from.is_some();
        self.unknown.insert(name.clone(), from);
        let error = match (name.as_str(), self.wish.follow) {
            // A node that was removed has no name any more.
            ("", _) if is_live => return,
            ("", _) => "what ran on nodes that were removed is missing here".to_owned(),
            (name, true) => {
                format!("node {name} is not known here yet; what runs there comes when it is")
            }
            (name, false) => format!("node {name} is not known here yet; ask again"),
        };
        let node = Some(name).filter(|name| !name.is_empty());
        let told = Told::Trouble { alloc: None, node, error };
        // Who does not read any more is noticed with the next line.
        let _ = self.told.send(told).await;
    }

    /// Sends what was written before; `None` if nobody reads any more.
    async fn past(&self, sources: &mut [Source]) -> Option<()> {
        join_all(sources.iter_mut().map(|source| source.advance(self))).await;
        loop {
            let next = sources.iter_mut().filter(|source| source.head.is_some());
            let next = next.min_by_key(|source| source.head.as_ref().map(|(at, _)| *at));
            let Some(source) = next else { return Some(()) };
            if let Some((_, told)) = source.head.take() {
                self.told.send(told).await.ok()?;
            }
            source.advance(self).await;
        }
    }
}

fn stream_of(words: mpsc::Receiver<Word>) -> BoxStream<'static, Word> {
    let next = async |mut words: mpsc::Receiver<Word>| Some((words.recv().await?, words));
    stream::unfold(words, next).boxed()
}

/// What a node tells.
struct Source {
    node: String,
    words: mpsc::Receiver<Word>,
    /// Its next line of those that were written before, and when that was.
    head: Option<(u64, Told)>,
}

impl Source {
    /// Waits for the next line of those that were written before.
    async fn advance(&mut self, merge: &Merge) {
        loop {
            let told = match timeout(SILENT_FOR, self.words.recv()).await {
                Ok(Some(Word::Begun(_))) => continue,
                Ok(Some(Word::Caught(_)) | None) => return,
                Ok(Some(Word::Told(told))) => told,
                Err(_) => {
                    let what = if merge.wish.follow { "come late" } else { "are missing here" };
                    let seconds = SILENT_FOR.as_secs();
                    let name = &self.node;
                    let error =
                        format!("node {name} has not answered for {seconds} s: its lines {what}");
                    let told = Told::Trouble { alloc: None, node: Some(name.clone()), error };
                    // Who does not read any more is noticed with the next line.
                    let _ = merge.told.send(told).await;
                    return;
                }
            };
            match &told {
                Told::Line { line, .. } => {
                    self.head = Some((line.at, told));
                    return;
                }
                Told::Trouble { .. } => {
                    // The same.
                    let _ = merge.told.send(told).await;
                }
            }
        }
    }
}

/// Asks another node, and again when it comes back.
struct Asker {
    streams: Streams,
    node: NodeId,
    name: String,
    query: NodeLogs,
    words: Words,
    /// Whether it was told that the node does not answer, since it last did.
    has_told: bool,
    passed: Passed,
}

impl Asker {
    fn new(
        streams: Streams,
        (node, name): (NodeId, String),
        query: NodeLogs,
        words: Words,
    ) -> Asker {
        let passed = Passed { from: query.from.clone(), has_caught: query.from.is_some() };
        Asker { streams, node, name, query, words, has_told: false, passed }
    }

    async fn run(mut self) {
        let words = self.words.clone();
        loop {
            let asked = tokio::select! {
                asked = self.once() => asked,
                () = words.closed() => return,
            };
            let Err(why) = asked else { return };
            if self.was_removed().await {
                return;
            }
            if !mem::replace(&mut self.has_told, true) {
                let error = self.trouble(&why);
                let told = Told::Trouble { alloc: None, node: Some(self.name.clone()), error };
                if words.send(Word::Told(told)).await.is_err() {
                    return;
                }
                // What others have written is not held back for it.
                let _ = words.send(Word::Caught(Places::default())).await;
            }
            if !self.query.follow {
                return;
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// It was known, so it is gone if it is known no more.
    async fn was_removed(&self) -> bool {
        // Its own copy can always be asked, but while the daemon stops.
        let numbers = self.streams.numbers().await;
        numbers.is_ok_and(|numbers| !numbers.values().any(|node| *node == self.node))
    }

    fn trouble(&self, why: &str) -> String {
        let name = &self.name;
        match self.query.follow {
            true => {
                format!("node {name} does not answer; what runs there comes when it does: {why}")
            }
            false => {
                format!("node {name} does not answer, so what runs there is missing here: {why}")
            }
        }
    }

    /// Asks, and passes on what is told until that is all.
    async fn once(&mut self) -> Result<(), String> {
        // Its own copy can always be asked, but while the daemon stops.
        if let Ok(views) = self.streams.allocs(Copy::Own).await {
            self.passed.forget_all_but(&views.into_iter().map(|view| view.id).collect());
        }
        let query = NodeLogs { from: self.passed.from.clone(), ..self.query.clone() };
        let asked = self.streams.ask(self.node, &Here::Logs(query)).await;
        // What is dropped ends the stream, so the sending side is kept.
        let (_sender, mut receiver) =
            asked.map_err(CallError::into_io).map_err(|e| e.to_string())?;
        loop {
            match receiver.next().await.map_err(|error| error.to_string())? {
                Some(Frame::Data(json)) => {
                    let word = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
                    self.has_told = false;
                    self.passed.note(&word);
                    if self.words.send(word).await.is_err() {
                        return Ok(());
                    }
                }
                Some(Frame::Exited(_)) if self.query.follow => return Err("it stopped".to_owned()),
                Some(Frame::Exited(_)) => return Ok(()),
                Some(Frame::Failed(error)) => return Err(error.to_string()),
                // What a newer version says besides.
                Some(
                    Frame::Ask(_)
                    | Frame::Opened(_)
                    | Frame::Error(_)
                    | Frame::Resize(_)
                    | Frame::End
                    | Frame::Beat,
                ) => {}
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).to_string()),
            }
        }
    }
}

/// Up to where a node's output was passed on.
struct Passed {
    /// From where to go on, should the node be lost; `None` before anything was.
    from: Option<Places>,
    /// Whether all that was written before was passed on.
    has_caught: bool,
}

impl Passed {
    /// In the midst of what was written before, the last line's moment is where every alloc goes
    /// on, since the lines come sorted.
    fn note(&mut self, word: &Word) {
        match word {
            Word::Begun(_) => self.has_caught = false,
            Word::Caught(places) => *self = Passed { from: Some(places.clone()), has_caught: true },
            Word::Told(Told::Line { alloc, line }) => {
                let from = self.from.get_or_insert_default();
                if !self.has_caught {
                    from.begun = Place::at(line.at);
                }
                let place = from.allocs.entry(alloc.clone());
                place.or_insert(Place::at(line.at)).pass(line.at);
            }
            Word::Told(Told::Trouble { .. }) => {}
        }
    }

    /// Of what is not in the cluster any more nothing is told either, so it need not be asked for.
    fn forget_all_but(&mut self, known: &BTreeSet<AllocId>) {
        if let Some(from) = &mut self.from {
            from.allocs.retain(|alloc, _| known.contains(alloc));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::{LogLine, LogStream};

    fn line(alloc: &str, at: u64) -> Word {
        let line = LogLine { at, stream: LogStream::Stdout, text: String::new() };
        Word::Told(Told::Line { alloc: AllocId::known(alloc), line })
    }

    fn passed(words: &[Word]) -> Option<Places> {
        let mut passed = Passed { from: None, has_caught: false };
        words.iter().for_each(|word| passed.note(word));
        passed.from
    }

    fn places(begun: u64, allocs: &[(&str, &[u64])]) -> Places {
        let place = |lines: &[u64]| {
            let mut place = Place::at(lines[0]);
            lines.iter().for_each(|at| place.pass(*at));
            place
        };
        let allocs = allocs.iter().map(|(id, lines)| (AllocId::known(id), place(lines)));
        Places { begun: Place::at(begun), allocs: allocs.collect() }
    }

    #[test]
    fn what_a_lost_node_has_not_told_of_before_is_told_when_it_is_back() {
        let begun = || Word::Begun(Place::at(100));
        assert_eq!(passed(&[begun()]), None);
        // Another alloc's lines of before may have come next, and be of the same millisecond.
        let lost = passed(&[begun(), line("web.0-a", 7), line("web.0-a", 9), line("web.0-a", 9)]);
        assert_eq!(lost, Some(places(9, &[("web.0-a", &[9, 9])])));
        let told = places(100, &[("web.0-a", &[9])]);
        let lost = passed(&[begun(), line("web.0-a", 9), Word::Caught(told), line("web.1-b", 103)]);
        assert_eq!(lost, Some(places(100, &[("web.0-a", &[9]), ("web.1-b", &[103])])));
    }

    #[test]
    fn what_is_gone_is_not_asked_for() {
        let from = Some(places(100, &[("web.0-a", &[9]), ("web.1-b", &[103])]));
        let mut passed = Passed { from, has_caught: true };
        passed.forget_all_but(&BTreeSet::from([AllocId::known("web.1-b")]));
        assert_eq!(passed.from, Some(places(100, &[("web.1-b", &[103])])));
    }
}
