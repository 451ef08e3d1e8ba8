//! The name server: what the cluster's names mean, by the tables of this moment; every other name
//! is asked of the host's own resolvers.
//!
//! Messages are read and written by hickory.
//! - `datagrams`: questions over UDP, with answers of the tables kept as bytes (`remembered`)
//! - `connections`: questions over TCP
//! - `others`: what the cluster does not know
//! - `limits`: how much one asker may take; `askers`: who asks
//! - `examine`: whether all of this answers
//!
//! Tested in `tests/names.rs` and `tests/limits.rs`.

mod askers;
mod connections;
mod datagrams;
mod examine;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod limits;
mod others;
mod remembered;
mod writing;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, PTR, SOA, SRV};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::server::Request;
use mill_core::net::{Data, Kind, Lookup, TTL_SECONDS, Tables, ZONE};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use self::askers::{Asker, Askers, Over};
pub use self::examine::Examined;
use self::limits::Limits;
use self::others::{Others, PassedOn, Waiting};

/// For how long a secondary server would wait; there is none.
const SECONDARY_SECONDS: i32 = 3600;

/// Answers questions.
#[derive(Debug)]
pub(crate) struct Names {
    tables: watch::Receiver<Arc<Tables>>,
    others: Arc<Others>,
    limits: Limits,
    counts: Counts,
    /// Whether services have their IPv6 addresses on this node.
    has_ipv6: bool,
}

/// Which askers are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apart {
    /// Containers, as far as the kernel knows of which a socket is.
    Containers,
    /// Sockets, as where the kernel knows nothing.
    Sockets,
}

/// What is counted since the start. Every question but those that are left without an answer is
/// one of the first five.
#[derive(Debug, Default)]
struct Counts {
    known: AtomicU64,
    remembered: AtomicU64,
    forwarded: AtomicU64,
    limited: AtomicU64,
    malformed: AtomicU64,
    failed_forwards: AtomicU64,
    refused_connections: AtomicU64,
}

/// What a name server was asked since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Questions that the tables answered, or that nobody would answer.
    pub known: u64,
    /// Those that others had answered before.
    pub remembered: u64,
    /// Those that wait, or waited, for the host's resolvers.
    pub forwarded: u64,
    /// Those that were refused because of a limit.
    pub limited: u64,
    /// Those that could not be read.
    pub malformed: u64,
    /// Those of `forwarded` to which no resolver gave an answer.
    pub failed_forwards: u64,
    /// Connections that are open.
    pub open_connections: u64,
    /// Connections that were closed at once because of a limit.
    pub refused_connections: u64,
}

/// What is answered.
#[derive(Default)]
struct Answer {
    code: ResponseCode,
    is_ours: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

/// What becomes of a question.
enum Outcome {
    /// This answer, as long as the tables stay.
    Known(Vec<u8>),
    /// This answer, this time.
    Once(Vec<u8>),
    /// It could not be read; this answer says so.
    Malformed(Vec<u8>),
    /// Others are asked.
    NotOurs(Box<Request>),
    /// Nothing.
    Silent,
}

/// What becomes of a question that is not ours.
enum Passed {
    /// This answer.
    Now(Vec<u8>),
    /// An answer comes.
    Later(Waiting),
}

impl Names {
    /// Answers by these tables, and asks the host's resolvers.
    pub fn new(tables: watch::Receiver<Arc<Tables>>) -> Names {
        Names::beside(tables, Others::of_the_host())
    }

    /// The same where services have no IPv6 addresses, unless they do.
    pub fn with_ipv6(self, has_ipv6: bool) -> Names {
        Names { has_ipv6, ..self }
    }

    /// The same with a resolver of a test's.
    pub fn with_resolver(tables: watch::Receiver<Arc<Tables>>, resolver: SocketAddr) -> Names {
        Names::beside(tables, Others::at(resolver))
    }

    fn beside(tables: watch::Receiver<Arc<Tables>>, others: Others) -> Names {
        Names {
            tables,
            others: Arc::new(others),
            limits: Limits::new(),
            counts: Counts::default(),
            has_ipv6: true,
        }
    }

    /// Whether services have their IPv6 addresses on this node.
    pub fn has_ipv6(&self) -> bool {
        self.has_ipv6
    }

    /// Answers until it is aborted. Call it from where the askers' sockets are.
    pub async fn serve(self: Arc<Self>, udp: UdpSocket, tcp: TcpListener) {
        self.serve_to(Apart::Containers, udp, tcp).await;
    }

    /// The same for these askers.
    pub async fn serve_to(self: Arc<Self>, apart: Apart, udp: UdpSocket, tcp: TcpListener) {
        let askers = || match apart {
            Apart::Containers => Askers::here(),
            Apart::Sockets => Askers::unknown(),
        };
        tokio::join!(
            datagrams::serve(self.clone(), askers(), udp),
            connections::serve(self, askers(), tcp),
        );
    }

    /// How names are on this node, whose name server is there, by a name that the cluster knows.
    pub async fn examine(&self, here: SocketAddr, name: &str) -> Examined {
        examine::examine(here, name, &self.others).await
    }

    /// What was asked since the start.
    pub fn asked(&self) -> Asked {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { known, remembered, forwarded, limited, malformed, .. } = &self.counts;
        Asked {
            known: count(known),
            remembered: count(remembered),
            forwarded: count(forwarded),
            limited: count(limited),
            malformed: count(malformed),
            failed_forwards: count(&self.counts.failed_forwards),
            open_connections: self.limits.connections() as u64,
            refused_connections: count(&self.counts.refused_connections),
        }
    }

    /// What becomes of a question.
    fn answer_now(&self, question: &[u8], from: SocketAddr, over: Over) -> Outcome {
        // Answers are not answered, lest two servers talk to each other for ever.
        if question.len() < writing::HEADER || writing::is_answer(question) {
            return Outcome::Silent;
        }
        let protocol = match over {
            Over::Udp => Protocol::Udp,
            Over::Tcp => Protocol::Tcp,
        };
        let request = writing::question_end(question)
            .and_then(|_| Request::from_bytes(question.to_vec(), from, protocol).ok());
        let Some(request) = request else {
            return Outcome::Malformed(writing::malformed(question));
        };
        match self.known(&request) {
            Some(answer) if writing::is_plain(question) => {
                Outcome::Known(self.written(&request, answer))
            }
            Some(answer) => Outcome::Once(self.written(&request, answer)),
            None => Outcome::NotOurs(Box::new(request)),
        }
    }

    fn written(&self, request: &Request, answer: Answer) -> Vec<u8> {
        writing::written(request, answer, self.others.are_known())
    }

    /// The answer that depends on the question and the tables alone; none if others know it.
    fn known(&self, request: &Request) -> Option<Answer> {
        let Ok(info) = request.request_info() else {
            return Some(Answer::code(ResponseCode::FormErr));
        };
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Some(Answer::code(ResponseCode::BADVERS));
        }
        if info.metadata.op_code != OpCode::Query {
            return Some(Answer::code(ResponseCode::NotImp));
        }
        if info.query.query_class() != DNSClass::IN {
            return Some(Answer::code(ResponseCode::Refused));
        }
        let name = info.query.original().name();
        let text = name.to_lowercase().to_ascii();
        let kind = kind(info.query.query_type());
        let found = self.lookup(text.trim_end_matches('.'), kind);
        match found {
            Lookup::Found(data) => Some(Answer::found(name, info.query.query_type(), data)),
            Lookup::NoSuchName => Some(Answer {
                code: ResponseCode::NXDomain,
                is_ours: true,
                authorities: vec![soa()],
                ..Answer::default()
            }),
            Lookup::NotOurs => None,
        }
    }

    /// What a name means on this node: an address that leads nowhere here is left out.
    fn lookup(&self, name: &str, kind: Kind) -> Lookup {
        let tables = self.tables.borrow();
        let leads_nowhere = |data: &Data| match data {
            Data::Aaaa(address) => tables.network.service_at(IpAddr::V6(*address)).is_some(),
            Data::A(_) | Data::Srv { .. } | Data::Ptr(_) => false,
        };
        match tables.lookup(name, kind) {
            Lookup::Found(mut data) => {
                data.retain(|data| self.has_ipv6 || !leads_nowhere(data));
                Lookup::Found(data)
            }
            other @ (Lookup::NoSuchName | Lookup::NotOurs) => other,
        }
    }

    /// What becomes of a question that is not known here.
    fn pass_on(&self, request: &Request, who: impl FnOnce() -> Asker) -> Passed {
        let Ok(info) = request.request_info() else {
            return Passed::Now(self.written(request, Answer::code(ResponseCode::FormErr)));
        };
        let mut query = info.query.original().clone();
        // A dot at its end: it is asked as it is, without a search through domains.
        query.name.set_fqdn(true);
        let (count, answer) = match self.others.pass_on(query, &self.limits, who) {
            PassedOn::Waiting(waiting) => {
                self.counts.forwarded.fetch_add(1, Ordering::Relaxed);
                return Passed::Later(waiting);
            }
            PassedOn::Remembered(answer) => (&self.counts.remembered, answer),
            // To programs this is a failure that passes, of which they hear at once: glibc and musl
            // ask again and then say so (EAI_AGAIN). musl takes REFUSED for no answer, and waits;
            // an answer cut short would be asked for once more, over a connection.
            PassedOn::Limited => (&self.counts.limited, Answer::code(ResponseCode::ServFail)),
        };
        count.fetch_add(1, Ordering::Relaxed);
        Passed::Now(self.written(request, answer))
    }

    /// The answer of others, once it is there.
    async fn answer_later(&self, request: &Request, waiting: Waiting) -> Vec<u8> {
        let answer = waiting.answer().await.unwrap_or_else(|| {
            self.counts.failed_forwards.fetch_add(1, Ordering::Relaxed);
            Answer::code(ResponseCode::ServFail)
        });
        self.written(request, answer)
    }
}

fn kind(kind: RecordType) -> Kind {
    match kind {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

impl Answer {
    fn code(code: ResponseCode) -> Answer {
        Answer { code, ..Answer::default() }
    }

    fn found(name: &Name, asked: RecordType, data: Vec<Data>) -> Answer {
        let mut answer = Answer { is_ours: true, ..Answer::default() };
        for data in data {
            let data = match data {
                Data::A(address) => RData::A(A(address)),
                Data::Aaaa(address) => RData::AAAA(AAAA(address)),
                Data::Srv { target, host, port } => {
                    let target = own(&target);
                    let additional = record(target.clone(), address(host));
                    if !answer.additionals.contains(&additional) {
                        answer.additionals.push(additional);
                    }
                    RData::SRV(SRV::new(0, 0, port, target))
                }
                Data::Ptr(name) => RData::PTR(PTR(own(&name))),
            };
            answer.answers.push(record(name.clone(), data));
        }
        if asked == RecordType::SOA && own(ZONE) == name.to_lowercase() {
            answer.answers.push(soa());
        } else if answer.answers.is_empty() {
            answer.authorities.push(soa());
        }
        answer
    }
}

fn record(name: Name, data: RData) -> Record {
    Record::from_rdata(name, TTL_SECONDS, data)
}

fn address(host: IpAddr) -> RData {
    match host {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// A name of the cluster's.
fn own(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap_or_else(|_| Name::root());
    name.set_fqdn(true);
    name
}

/// What says for how long it is good that there is nothing (RFC 2308, section 5).
fn soa() -> Record {
    let seconds = i32::try_from(TTL_SECONDS).unwrap_or(i32::MAX);
    let mailbox = own(&format!("hostmaster.{ZONE}"));
    let waits = SECONDARY_SECONDS;
    let soa = SOA::new(own(&format!("ns.{ZONE}")), mailbox, 1, waits, seconds, waits, TTL_SECONDS);
    record(own(ZONE), RData::SOA(soa))
}
