//! Whether a name server answers, for whoever looks at a node: it is asked as containers ask it,
//! and the host's resolvers are asked as it asks them. Tested below and in `tests/traffic.rs`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_server::net::{DnsError, NetError};
use hickory_server::proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::others::Others;

/// Whoever answers later does not answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of the answer to a question without EDNS (RFC 1035 section 4.2.1).
const LONGEST: usize = 512;

/// How names are on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Whether its name server answers for the cluster; why not.
    pub own: Result<(), String>,
    /// The host's resolvers.
    pub resolvers: Vec<IpAddr>,
    /// Whether one of them answers; why not. Nothing is asked if there are none.
    pub others: Result<(), String>,
}

/// Asks for a name of the cluster, and for the root, which every resolver knows.
pub(crate) async fn examine(at: SocketAddr, name: &str, others: &Others) -> Examined {
    let own = async {
        match timeout(PATIENCE, ask(at, name)).await {
            Ok(Ok(ResponseCode::NoError)) => Ok(()),
            Ok(Ok(code)) => Err(format!("to `{name}` it answers {code}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("nothing came within {} s", PATIENCE.as_secs())),
        }
    };
    let beyond = async {
        let Some(resolver) = others.resolver() else { return Ok(()) };
        match timeout(PATIENCE, resolver.lookup(Name::root(), RecordType::NS)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(NetError::Dns(said))) => match code(&said) {
                // One that reaches nobody itself, or answers others only.
                Some(code @ (ResponseCode::ServFail | ResponseCode::Refused)) => {
                    Err(format!("they say {code}"))
                }
                // Whatever else it is, somebody said it.
                Some(_) | None => Ok(()),
            },
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("nothing came within {} s", PATIENCE.as_secs())),
        }
    };
    let (own, beyond) = tokio::join!(own, beyond);
    Examined { own, resolvers: others.servers().to_vec(), others: beyond }
}

fn code(said: &DnsError) -> Option<ResponseCode> {
    match said {
        DnsError::ResponseCode(code) => Some(*code),
        DnsError::NoRecordsFound(none) => Some(none.response_code),
        _ => None,
    }
}

async fn ask(at: SocketAddr, name: &str) -> io::Result<ResponseCode> {
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(name).map_err(io::Error::other)?;
    question.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(at).await?;
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
    let mut answer = [0; LONGEST];
    let length = socket.recv(&mut answer).await?;
    let answer = Message::from_vec(&answer[..length]).map_err(io::Error::other)?;
    Ok(answer.metadata.response_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resolver that answers all questions with this, and where it is.
    async fn resolver(code: ResponseCode) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut bytes = [0; LONGEST];
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                let asked = Message::from_vec(&bytes[..length]).unwrap();
                let mut said = Message::error_msg(asked.metadata.id, OpCode::Query, code);
                said.add_queries(asked.queries.iter().cloned());
                socket.send_to(&said.to_vec().unwrap(), from).await.unwrap();
            }
        });
        at
    }

    #[test]
    fn a_resolver_that_reaches_nobody_or_refuses_is_no_good() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for (code, good) in [
                (ResponseCode::ServFail, false),
                (ResponseCode::Refused, false),
                (ResponseCode::NXDomain, true),
                (ResponseCode::NoError, true),
            ] {
                let at = resolver(code).await;
                let found = examine(at, "a.node.mill.", &Others::at(at)).await;
                assert_eq!(found.others.is_ok(), good, "{code}: {:?}", found.others);
            }
        });
    }

    #[test]
    fn nobody_that_is_silent_is_said_to_answer() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let at = silent.local_addr().unwrap();
            tokio::time::pause();
            let found = examine(at, "a.node.mill.", &Others::at(at)).await;
            assert_eq!(found.own.unwrap_err(), "nothing came within 3 s");
            assert_eq!(found.resolvers, [at.ip()]);
            found.others.unwrap_err();
            let found = examine(at, "a.node.mill.", &Others::none()).await;
            assert_eq!((found.resolvers, found.others), (Vec::new(), Ok(())));
        });
    }
}
