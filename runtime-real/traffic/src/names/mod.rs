//! The name server: what the cluster's names mean, by the tables of this moment; every other name
//! is asked of the host's own resolvers, and remembered for as long as they say.
//!
//! Messages are read and written by hickory. Connections are hickory's server's too; `datagrams`
//! does what it would do for UDP, with answers of the tables kept as bytes (`remembered`).

mod datagrams;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod remembered;
mod writing;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::net::{DnsError, NetError};
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, PTR, SOA, SRV};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use mill_core::net::{Data, Kind, Lookup, TTL_SECONDS, Tables, ZONE};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};

/// A connection that asks nothing for so long is closed.
const QUIET: Duration = Duration::from_secs(10);
/// Answers that wait for a slow reader of one connection.
const ANSWERS_WAITING: usize = 32;
/// Questions that are asked of others at a time; whoever asks more is told to try again.
const ASKED_OF_OTHERS: usize = 512;
/// Answers of others that are remembered.
const REMEMBERED: u64 = 4096;
/// For how long a secondary server would wait; there is none.
const SECONDARY_SECONDS: i32 = 3600;

/// Answers questions.
#[derive(Debug)]
pub(crate) struct Names {
    tables: watch::Receiver<Arc<Tables>>,
    /// `None` if this host knows no resolver.
    others: Option<TokioResolver>,
    room: Semaphore,
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

/// What becomes of a datagram.
enum Outcome {
    /// This answer, as long as the tables stay.
    Known(Vec<u8>),
    /// This answer, this time.
    Once(Vec<u8>),
    /// Others are asked.
    NotOurs(Box<Request>),
    /// Nothing.
    Silent,
}

/// Answers what comes over connections.
struct Connections(Arc<Names>);

impl Names {
    pub fn new(tables: watch::Receiver<Arc<Tables>>) -> Names {
        Names { tables, others: others(), room: Semaphore::new(ASKED_OF_OTHERS) }
    }

    /// Answers until it is aborted.
    pub async fn serve(self, udp: UdpSocket, tcp: TcpListener) {
        let names = Arc::new(self);
        let mut connections = Server::new(Connections(names.clone()));
        connections.register_listener(tcp, QUIET, ANSWERS_WAITING);
        tokio::select! {
            () = datagrams::serve(names, udp) => {}
            ended = connections.block_until_done() => if let Err(error) = ended {
                tracing::error!(%error, "the name server has ended; restart the daemon");
            },
        }
    }

    /// What becomes of a datagram.
    fn answer_now(&self, question: &[u8], from: SocketAddr) -> Outcome {
        // Answers are not answered, lest two servers talk to each other for ever.
        if question.len() < writing::HEADER || writing::is_answer(question) {
            return Outcome::Silent;
        }
        let request = writing::question_end(question)
            .and_then(|_| Request::from_bytes(question.to_vec(), from, Protocol::Udp).ok());
        let Some(request) = request else {
            return Outcome::Once(writing::malformed(question));
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
        writing::written(request, answer, self.others.is_some())
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
        let found = self.tables.borrow().lookup(text.trim_end_matches('.'), kind);
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

    /// The answer to what is not known here.
    async fn answer_of_others(&self, request: &Request) -> Answer {
        let Ok(info) = request.request_info() else {
            return Answer::code(ResponseCode::FormErr);
        };
        let name = info.query.original().name().clone();
        self.ask_others(name, info.query.query_type()).await
    }

    async fn ask_others(&self, name: Name, kind: RecordType) -> Answer {
        let (Some(others), Ok(_place)) = (&self.others, self.room.try_acquire()) else {
            return Answer::code(ResponseCode::ServFail);
        };
        // A dot at its end: it is asked as it is, without a search through domains.
        let mut name = name;
        name.set_fqdn(true);
        match others.lookup(name, kind).await {
            Ok(found) => Answer {
                answers: found.answers().to_vec(),
                authorities: found.authorities().to_vec(),
                ..Answer::default()
            },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Answer {
                code: none.response_code,
                authorities: none.soa.map(|soa| soa.into_record_of_rdata()).into_iter().collect(),
                ..Answer::default()
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Answer::code(code),
            Err(_) => Answer::code(ResponseCode::ServFail),
        }
    }
}

/// The host's own resolvers.
fn others() -> Option<TokioResolver> {
    let built = TokioResolver::builder_tokio().and_then(|mut builder| {
        let options = builder.options_mut();
        options.cache_size = REMEMBERED;
        // The names of this host's own file are not the containers'.
        options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
        builder.build()
    });
    match built {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            tracing::warn!(%error, "this host knows no resolver: only names of the cluster are answered");
            None
        }
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

#[async_trait::async_trait]
impl RequestHandler for Connections {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let Connections(names) = self;
        let answer = match names.known(request) {
            Some(answer) => answer,
            None => names.answer_of_others(request).await,
        };
        let metadata = writing::metadata(request, &answer, names.others.is_some());
        let edns = writing::edns(request);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let Answer { answers, authorities, additionals, .. } = &answer;
        let message = builder.build(metadata, answers, authorities, [], additionals);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "an answer was not sent");
                let mut metadata = Metadata::response_from_request(&request.metadata);
                metadata.response_code = ResponseCode::ServFail;
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}
