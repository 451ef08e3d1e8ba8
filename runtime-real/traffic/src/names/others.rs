//! What the cluster does not know: asked of the host's own resolvers, and remembered for as long as
//! they say.
//!
//! What is remembered costs nobody anything. A question that is under way already is not asked
//! again: whoever else asks it waits for the same answer. Within which limits: `limits`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{ResponseCache, TokioResolver, TtlConfig};
use hickory_server::net::{DnsError, NetError};
use hickory_server::proto::op::{Message, Query, ResponseCode};
use hickory_server::proto::rr::Name;

use super::Answer;
use super::askers::Asker;
use super::limits::{Limits, Share};
use crate::clock;

/// Answers of others that are remembered.
const REMEMBERED: u64 = 4096;

/// The host's own resolvers.
#[derive(Debug)]
pub(super) struct Others {
    /// `None` if this host knows none.
    resolver: Option<TokioResolver>,
    servers: Vec<IpAddr>,
    remembered: ResponseCache,
    under_way: Mutex<BTreeMap<Asked, Coming>>,
}

/// A name, and the number of the kind of record that is asked for.
type Asked = (Name, u16);
/// What resolvers say, once they do. Clones are the same.
type Coming = Shared<BoxFuture<'static, Arc<Said>>>;
type Said = Result<Message, NetError>;

/// What becomes of a question.
pub(super) enum PassedOn {
    /// It was answered before.
    Remembered(Answer),
    /// It is asked.
    Waiting(Waiting),
    /// Whoever asks it is at a limit.
    Limited,
}

/// A question that is under way.
pub(super) struct Waiting {
    coming: Coming,
    _place: Share,
}

impl Others {
    /// Those that `/etc/resolv.conf` names.
    pub fn of_the_host() -> Others {
        match read_system_conf().and_then(|(config, options)| Others::of(config, options)) {
            Ok(others) => others,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "this host knows no resolver: only names of the cluster are answered"
                );
                Others::none()
            }
        }
    }

    /// The resolver at one address, over UDP alone: a test's.
    pub fn at(address: SocketAddr) -> Others {
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        let server = NameServerConfig::new(address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        Others::of(config, ResolverOpts::default()).unwrap_or_else(|_| Others::none())
    }

    fn of(config: ResolverConfig, mut options: ResolverOpts) -> Result<Others, NetError> {
        let servers = config.name_servers().iter().map(|server| server.ip).collect();
        // The names of this host's own file are not the containers'; what is remembered is so here.
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = Some(builder.with_options(options).build()?);
        Ok(Others { resolver, servers, ..Others::none() })
    }

    /// None.
    pub fn none() -> Others {
        let remembered = ResponseCache::new(REMEMBERED, TtlConfig::default());
        Others { resolver: None, servers: Vec::new(), remembered, under_way: Mutex::default() }
    }

    /// What asks them.
    pub fn resolver(&self) -> Option<&TokioResolver> {
        self.resolver.as_ref()
    }

    /// Where they are.
    pub fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// Whether there are any.
    pub fn are_known(&self) -> bool {
        self.resolver.is_some()
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<Asked, Coming>> {
        self.under_way.lock().expect("no code panics while it holds what is under way")
    }

    /// Answers a question, or begins to ask it.
    pub fn pass_on(
        self: &Arc<Self>,
        query: Query,
        limits: &Limits,
        who: impl FnOnce() -> Asker,
    ) -> PassedOn {
        let now = clock::now();
        if let Some(said) = self.remembered.get(&query, now) {
            return PassedOn::Remembered(answer(&said));
        }
        if self.resolver.is_none() {
            return PassedOn::Remembered(Answer::code(ResponseCode::ServFail));
        }
        let asker = who();
        let Some(place) = limits.waiting(asker) else { return PassedOn::Limited };
        let asked = (query.name().clone(), query.query_type().into());
        let mut under_way = self.under_way();
        let coming = match under_way.get(&asked) {
            Some(coming) => coming.clone(),
            None if !limits.may_ask(asker, now) => return PassedOn::Limited,
            None => {
                let coming = self.clone().ask(query, asked.clone()).boxed().shared();
                under_way.insert(asked, coming.clone());
                coming
            }
        };
        PassedOn::Waiting(Waiting { coming, _place: place })
    }

    async fn ask(self: Arc<Self>, query: Query, asked: Asked) -> Arc<Said> {
        let said = match &self.resolver {
            Some(resolver) => {
                let found = resolver.lookup(query.name().clone(), query.query_type()).await;
                found.map(|found| found.message().clone())
            }
            None => Err(NetError::NoConnections),
        };
        self.remembered.insert(query, said.clone(), clock::now());
        self.under_way().remove(&asked);
        Arc::new(said)
    }
}

impl Waiting {
    /// The answer; none if nobody gave one.
    pub async fn answer(self) -> Option<Answer> {
        let said = self.coming.await;
        match &*said {
            Ok(_) | Err(NetError::Dns(_)) => Some(answer(&said)),
            Err(_) => None,
        }
    }
}

fn answer(said: &Said) -> Answer {
    match said {
        Ok(message) => Answer {
            answers: message.answers.clone(),
            authorities: message.authorities.clone(),
            ..Answer::default()
        },
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Answer {
            code: none.response_code,
            authorities: none
                .soa
                .clone()
                .map(|soa| soa.into_record_of_rdata())
                .into_iter()
                .collect(),
            ..Answer::default()
        },
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Answer::code(*code),
        Err(_) => Answer::code(ResponseCode::ServFail),
    }
}
