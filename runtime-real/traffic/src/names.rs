//! The name server: what the cluster's names mean, by the tables of this moment; every other name
//! is asked of the host's own resolvers, and remembered for as long as they say.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::{DnsError, NetError};
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode};
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
/// What fits into a datagram without being cut on its way (DNS flag day 2020).
const DATAGRAM: u16 = 1232;
/// For how long a secondary server would wait; there is none.
const SECONDARY_SECONDS: i32 = 3600;

/// Answers questions.
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

impl Names {
    pub fn new(tables: watch::Receiver<Arc<Tables>>) -> Names {
        Names { tables, others: others(), room: Semaphore::new(ASKED_OF_OTHERS) }
    }

    /// Answers until it is aborted.
    pub async fn serve(self, udp: UdpSocket, tcp: TcpListener) {
        let mut server = Server::new(self);
        server.register_socket(udp);
        server.register_listener(tcp, QUIET, ANSWERS_WAITING);
        if let Err(error) = server.block_until_done().await {
            tracing::error!(%error, "the name server has ended; restart the daemon");
        }
    }

    async fn answer(&self, request: &Request) -> Answer {
        let Ok(info) = request.request_info() else { return Answer::code(ResponseCode::FormErr) };
        if info.metadata.op_code != OpCode::Query {
            return Answer::code(ResponseCode::NotImp);
        }
        if info.query.query_class() != DNSClass::IN {
            return Answer::code(ResponseCode::Refused);
        }
        let name = info.query.original().name().clone();
        let text = name.to_lowercase().to_ascii();
        let kind = kind(info.query.query_type());
        let found = self.tables.borrow().lookup(text.trim_end_matches('.'), kind);
        match found {
            Lookup::Found(data) => Answer::found(&name, info.query.query_type(), data),
            Lookup::NoSuchName => Answer {
                code: ResponseCode::NXDomain,
                is_ours: true,
                authorities: vec![soa()],
                ..Answer::default()
            },
            Lookup::NotOurs => self.ask_others(name, info.query.query_type()).await,
        }
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
                    answer.additionals.push(record(target.clone(), address(host)));
                    RData::SRV(SRV::new(0, 0, port, target))
                }
                Data::Ptr(name) => RData::PTR(PTR(own(&name))),
            };
            answer.answers.push(record(name.clone(), data));
        }
        answer.additionals.dedup();
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
impl RequestHandler for Names {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let answer = self.answer(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.is_ours;
        metadata.recursion_available = self.others.is_some();
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, DATAGRAM));
            edns
        });
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
