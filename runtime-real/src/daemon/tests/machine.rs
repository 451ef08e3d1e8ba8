//! A machine on the simulated network: at first it is nothing, then it founds or joins a cluster,
//! and runs its node.
//!
//! The node, what it says to others and what others say to it are the daemon's own. A loop stands
//! in for `event_loop` and `dispatch`, since there is no container engine and the log is a script.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mill_core::api::{ApiError, Outcome, Request, RequestId};
use mill_core::cluster::Revision;
use mill_core::cluster::node::PortPool;
use mill_core::event::{Fate, Leadership, Origin};
use mill_core::name::NodeId;
use mill_core::{Effect, Event, Node};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use super::super::calls::{self, Answering};
use super::super::joining::{self, Admitting, Invitation, JoinError, Joiner, TokenWish, Welcome};
use super::super::membership::Membership;
use super::super::wire::Wire;
use super::super::{
    Asked, DaemonOptions, EVENTS_WAITING, Handle, REQUESTS_WAITING, StartError, log_file,
    node_config,
};
use super::log::{Log, Told};
use super::stage::{PORT, Record, Turmoil, name_of};
use crate::book;
use crate::clock::Clock;
use crate::identity::{Opened, PKI_FOLDER};
use crate::pki::{Store, fingerprint};
use crate::rpc::{Limits, Server};
use crate::token::JoinToken;
use mill_core::effect::Book;

const VERSION: &str = "0.1.0";
/// The one term of the log.
const TERM: u64 = 1;

/// A machine, for whoever acts on it. Clones are the same one.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) number: u64,
    pub(super) record: Record,
    seed: u64,
    /// Its directory.
    data: Rc<TempDir>,
    running: Rc<RefCell<Option<Running>>>,
}

/// How a machine that is a node is asked, and speaks to others.
#[derive(Clone)]
pub(super) struct Running {
    handle: Handle,
    pub(super) wire: Wire<Turmoil>,
    pub(super) node: NodeId,
    /// Fingerprint of the cluster's authority.
    pub(super) authority: String,
}

impl Machine {
    pub(super) fn new(number: u64, seed: u64, record: Record) -> Machine {
        let data = Rc::new(tempfile::tempdir().unwrap());
        Machine { number, record, seed, data, running: Rc::default() }
    }

    /// Writes down what happened here.
    pub(super) fn says(&self, text: &str) {
        self.record.line(&format!("{} {text}", name_of(self.number)));
    }

    pub(super) fn running(&self) -> Running {
        self.running.borrow().clone().expect("it is a node")
    }

    /// As somebody does who uses its API.
    pub(super) async fn ask(&self, request: Request) -> Outcome {
        self.running().handle.ask(request).await
    }

    pub(super) async fn create_token(&self, wish: TokenWish) -> Result<JoinToken, ApiError> {
        let Running { handle, authority, .. } = self.running();
        joining::create_token(&handle, &authority, wish).await
    }

    /// Begins a cluster.
    pub(super) async fn found(&self) {
        let (data, name) = (self.data.path(), Some(name_of(self.number)));
        self.start(Membership::found(data, &log_file(data), name, None).unwrap()).await;
    }

    /// Asks to be a node, and is one.
    pub(super) async fn join(&self, invitation: &Invitation) -> Result<NodeId, StartError> {
        let data = self.data.path();
        let (log, joiner) = (log_file(data), self.joiner());
        let membership = Membership::join(Turmoil, data, &log, invitation, &joiner).await?;
        let book = book::read(data).unwrap();
        assert!(book.peers.contains_key(&NodeId(1)), "it knows where the others are");
        self.start(membership).await;
        Ok(self.running().node)
    }

    /// Asks to be a node, with its key, and does no more.
    pub(super) async fn apply(&self, invitation: &Invitation) -> Result<Welcome, JoinError> {
        let store = Store::open(&self.data.path().join(PKI_FOLDER)).unwrap();
        joining::ask(Turmoil, &store.node_key().unwrap(), None, (invitation, &self.joiner())).await
    }

    fn joiner(&self) -> Joiner {
        Joiner {
            name: name_of(self.number),
            advertise: name_of(self.number),
            rpc: format!("{}:{PORT}", name_of(self.number)),
            version: VERSION.to_owned(),
            mesh: None,
        }
    }

    fn options(&self) -> DaemonOptions {
        DaemonOptions {
            data: self.data.path().to_path_buf(),
            name: None,
            advertise: name_of(self.number),
            socket: self.data.path().join("unused"),
            rpc: None,
            listen: None,
            engine: None,
            ingress: Default::default(),
            ports: PortPool::default(),
            version: VERSION.to_owned(),
        }
    }

    /// As `Daemon::run` does, without containers, API and consensus.
    async fn start(&self, membership: Membership) {
        let Membership { mut opened, credentials, authority, cluster_key, mesh: _ } = membership;
        let known = watch::Sender::default();
        let identity = opened.identity.clone();
        let (events, happened) = mpsc::channel(EVENTS_WAITING);
        let (requests, asked) = mpsc::channel(REQUESTS_WAITING);
        let (log, told) = Log::new(identity.node);
        let wire = Wire::new(Turmoil, &credentials, events.clone()).unwrap();
        let handle = Handle { requests };
        let running = Running {
            handle: handle.clone(),
            wire: wire.clone(),
            node: identity.node,
            authority: fingerprint(&credentials.authority),
        };
        let admitting = Admitting {
            cluster_key,
            authority,
            token_hash: identity.token_hash,
            recovery: identity.recovery,
            handle,
            wire: wire.clone(),
            consensus: log.clone(),
        };
        let answering = Answering {
            consensus: log.clone(),
            events: events.clone(),
            known: known.subscribe(),
            admitting,
        };
        let router = calls::router(answering);
        let server = Server::new(&credentials, router, Limits::default()).unwrap();
        let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await.unwrap();
        drop(tokio::spawn(calls::serve(listener, server.clone())));
        opened.begin().unwrap();
        let clock = Clock::start();
        let rpc = self.joiner().rpc;
        let config = node_config(&opened, &self.options(), &credentials.fingerprint(), rpc);
        if config.founder.is_some() {
            log.lead();
        }
        let node = Node::new(config, self.seed, clock.now());
        *self.running.borrow_mut() = Some(running);
        let (machine, waiting, _opened) = (self.clone(), BTreeMap::new(), opened);
        let seat =
            Seat { machine, node, clock, log, wire, server, known, events, waiting, _opened };
        tokio::task::spawn_local(seat.run(told, happened, asked));
    }
}

/// Drives a node.
struct Seat {
    machine: Machine,
    node: Node,
    clock: Clock,
    log: Log,
    wire: Wire<Turmoil>,
    server: Server,
    known: watch::Sender<Book>,
    events: mpsc::Sender<Event>,
    waiting: BTreeMap<RequestId, oneshot::Sender<Outcome>>,
    /// Holds the machine's directory.
    _opened: Opened,
}

impl Seat {
    /// Runs until the node is no member any more.
    async fn run(
        mut self,
        mut told: mpsc::UnboundedReceiver<Told>,
        mut happened: mpsc::Receiver<Event>,
        mut asked: mpsc::Receiver<Asked>,
    ) {
        let mut goes_on = true;
        let mut next_request = 1;
        while goes_on {
            let wake = self.node.poll_timeout().map(|(at, _)| self.clock.instant(at));
            goes_on = tokio::select! {
                biased;
                Some(told) = told.recv() => self.on_log(told),
                Some(event) = happened.recv() => self.handle(event),
                Some(asked) = asked.recv() => {
                    next_request += 1;
                    self.on_asked(RequestId(next_request), asked)
                }
                () = async { sleep_until(wake.unwrap()).await }, if wake.is_some() => {
                    self.handle(Event::Wake)
                }
            };
        }
        self.machine.says("ends: it was removed");
    }

    fn on_log(&mut self, told: Told) -> bool {
        let event = match told {
            Told::CaughtUp => {
                self.machine.says("has the state");
                Event::CaughtUp
            }
            Told::Committed { index, entry } => {
                let at = Revision { epoch: self.node.cluster().revision.epoch, index };
                Event::Committed { at, entry: (*entry).into() }
            }
            Told::Leads(leader) => {
                let voters = BTreeSet::from([leader]);
                self.handle(Event::Members { voters, learners: BTreeSet::new() });
                Event::Leadership(match self.log.leads() {
                    true => Leadership::Leader { term: TERM },
                    false => Leadership::Follower { leader: Some(leader), term: TERM },
                })
            }
        };
        self.handle(event)
    }

    fn on_asked(&mut self, id: RequestId, Asked { request, origin, reply }: Asked) -> bool {
        if let (Request::CreateToken { hash, .. }, Origin::Node(_)) = (&request, origin) {
            self.machine.record.passed_on(hash);
        }
        self.waiting.insert(id, reply);
        self.handle(Event::Request { id, request, origin })
    }

    /// Whether the node goes on.
    fn handle(&mut self, event: Event) -> bool {
        if let Event::Dismissed { by } = event {
            self.machine.says(&format!("is dismissed by {by}"));
        }
        self.node.handle(self.clock.now(), event);
        let mut goes_on = true;
        while let Some(effect) = self.node.poll_effect() {
            goes_on &= effect != Effect::Retire;
            self.carry_out(effect);
        }
        goes_on
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Propose { entry } => {
                let id = entry.id;
                if !self.log.propose(*entry) {
                    self.later(Event::ProposalFailed { id, fate: Fate::Refused });
                }
            }
            Effect::ConfirmRead { id } => {
                let confirmed = self.log.leads();
                self.later(Event::ReadConfirmed { id, confirmed });
            }
            Effect::Reply { id, outcome } => {
                let reply = self.waiting.remove(&id).expect("each is answered once");
                // Who asked may be gone.
                let _ = reply.send(*outcome);
            }
            Effect::Send { to, message } => {
                let wire = self.wire.clone();
                drop(tokio::spawn(async move { wire.send(to, &message).await }));
            }
            Effect::Forward { to, id, request } => {
                let (wire, events) = (self.wire.clone(), self.events.clone());
                drop(tokio::spawn(async move {
                    let outcome = wire.forward(to, &request).await;
                    // The loop may have ended.
                    let outcome = outcome.map(Box::new);
                    let _ = events.send(Event::Forwarded { id, outcome }).await;
                }));
            }
            Effect::Peers { book, current: _ } => {
                self.wire.set(&book);
                self.log.set_members(&book.peers, &self.wire);
                self.server.set_book(book.clone());
                self.known.send_replace(book);
            }
            Effect::Greet { to } => {
                let (wire, book) = (self.wire.clone(), self.known.borrow().clone());
                drop(tokio::spawn(async move { wire.greet(to, &book).await }));
            }
            // The script says who votes and who leads, there are no snapshots of its state, nobody
            // deploys anything, and `handle` sees to the end.
            Effect::ChangeMembers { .. }
            | Effect::TransferLead { .. }
            | Effect::Snapshot { .. }
            | Effect::Container { .. }
            | Effect::Publish { .. }
            | Effect::Acme { .. }
            | Effect::RotateKey { .. }
            | Effect::Retire => {}
        }
    }

    fn later(&self, event: Event) {
        self.events.try_send(event).expect("little waits");
    }
}
