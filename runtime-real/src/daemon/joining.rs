//! Joining: what a machine asks that wants to be a node, and what a primary answers.
//!
//! The joiner knows an address, the fingerprint of the cluster's authority and a secret, all from
//! the token. Core judges the secret and admits; a node that has the authority signs. Asking again
//! with the same key is answered the same.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mill_core::api::{Answer, ApiError, ErrorCode, JoinAsk, Outcome, Request};
use mill_core::cluster::FeatureLevel;
use mill_core::cluster::admission::Roles;
use mill_core::cluster::mesh::MeshFacts;
use mill_core::name::NodeId;
use serde::{Deserialize, Serialize};

use super::calls::Answerer;
use super::wire::Wire;
use super::{Consensus, Handle};
use crate::clock;
use crate::pki::{self, Authority, AuthorityPem, NodeKey, PkiError};
use crate::rpc::{self, Caller, Dial, JOIN_PATH, Tcp};
use crate::token::{JoinToken, hash_of};
use crate::vault::ClusterKey;
use mill_core::effect::Book;

/// To be admitted takes two rounds of consensus, at most one of them with a new leader.
const ADMITTED_WITHIN: Duration = Duration::from_secs(15);

/// What a person gives a machine that is to join.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// Address and port at which any node is reached.
    pub address: String,
    /// The token.
    pub token: JoinToken,
    /// The roles that are wanted; all that the token gives if absent.
    pub roles: Option<Roles>,
    /// Labels of the new node.
    pub labels: BTreeMap<String, String>,
}

/// Why a machine could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody answered.
    #[error(
        "no node answers at {address}: {source}\nis the daemon there running, does it serve other \
         nodes at that address (its `mill init --advertise`), and does a firewall let this machine \
         through?"
    )]
    Unreachable {
        /// Whom it asked.
        address: String,
        /// What was seen.
        source: io::Error,
    },
    /// Somebody else answered.
    #[error(
        "the node at {address} is not of the cluster that this token is from, and was told nothing: \
         compare the address, or make a token there with `mill token create`"
    )]
    WrongAuthority {
        /// Whom it asked.
        address: String,
    },
    /// The cluster refused.
    #[error("{0}")]
    Refused(ApiError),
    /// The answer makes no sense.
    #[error(
        "the node at {address} answered what this version does not understand; is it another \
         version? compare `mill version`"
    )]
    Garbled {
        /// Whom it asked.
        address: String,
    },
    /// The machine is a node already.
    #[error(
        "this machine is node {node} of cluster {cluster}, in {}: `mill init` with the \
         same options goes on with it. A backup is restored into an empty directory, name one with \
         --data", data.display()
    )]
    Member {
        /// The data directory.
        data: PathBuf,
        /// Id of that cluster.
        cluster: String,
        /// Its number there.
        node: NodeId,
    },
    /// The machine is a node of another cluster.
    #[error(
        "this machine is node {node} of another cluster ({cluster}), in {}: take it out of that one \
         with `mill leave`, or name a directory of its own with --data", data.display()
    )]
    OtherCluster {
        /// The data directory.
        data: PathBuf,
        /// Id of that cluster.
        cluster: String,
        /// Its number there.
        node: NodeId,
    },
}

/// What a joiner sends.
#[derive(Serialize, Deserialize)]
struct Application {
    /// A request to sign, with the joiner's key.
    certificate: String,
    /// The token's secret: whoever knows what the cluster keeps of it cannot join with that.
    secret: String,
    ask: JoinAsk,
}

/// What it is given.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) cluster: String,
    pub(super) node: NodeId,
    pub(super) name: String,
    /// Certificate of the new node.
    pub(super) certificate: String,
    /// Certificate of the authority.
    pub(super) authority: String,
    /// The authority whole, for a primary.
    pub(super) with_key: Option<AuthorityPem>,
    /// What the cluster seals with.
    pub(super) cluster_key: String,
    /// Hash of the cluster's API token, and public half of its recovery key.
    pub(super) token_hash: String,
    pub(super) recovery: String,
    /// Where the members are.
    pub(super) book: Book,
}

/// How the joiner itself is reached.
#[derive(Clone, Debug)]
pub(super) struct Joiner {
    pub(super) name: String,
    pub(super) advertise: String,
    pub(super) rpc: String,
    pub(super) version: String,
    /// Where its datagrams come in, if it can be part of a mesh.
    pub(super) mesh: Option<SocketAddr>,
}

/// Asks to be a node.
pub(super) async fn ask(
    dial: impl Dial,
    key: &NodeKey,
    mesh: Option<MeshFacts>,
    (invitation, joiner): (&Invitation, &Joiner),
) -> Result<Welcome, JoinError> {
    let Invitation { address, token, roles, labels } = invitation.clone();
    let Joiner { name, advertise, rpc, version, mesh: _ } = joiner.clone();
    let ask = JoinAsk {
        // Made from the secret by whoever admits.
        token: String::new(),
        key: key.fingerprint(),
        name,
        roles,
        labels,
        advertise,
        rpc,
        version,
        supports: FeatureLevel::NEWEST,
        mesh,
        wall: clock::wall(),
    };
    let unreachable = |source| JoinError::Unreachable { address: address.clone(), source };
    let certificate = key.request().map_err(|error| unreachable(io::Error::other(error)))?;
    let body = to_json(&Application { certificate, secret: token.secret().to_owned(), ask });
    let authority = &token.authority;
    let asked = rpc::call_stranger(dial, &address, authority, JOIN_PATH, body, ADMITTED_WITHIN);
    let answer = asked.await.map_err(|source| match rpc::is_wrong_authority(&source) {
        true => JoinError::WrongAuthority { address: address.clone() },
        false => unreachable(source),
    })?;
    let answer: Result<Welcome, ApiError> = serde_json::from_slice(&answer)
        .map_err(|_| JoinError::Garbled { address: address.clone() })?;
    answer.map_err(JoinError::Refused)
}

/// Lets machines in.
#[derive(Clone)]
pub(super) struct Admitting<C = Consensus, D = Tcp> {
    pub(super) authority: Option<Arc<Authority>>,
    pub(super) cluster_key: ClusterKey,
    pub(super) token_hash: String,
    pub(super) recovery: String,
    pub(super) handle: Handle,
    pub(super) wire: Wire<D>,
    pub(super) consensus: C,
}

impl<C: Answerer, D: Dial> Admitting<C, D> {
    /// Answers a machine that asks; a node without the authority passes it on to the leader, which
    /// has it.
    pub(super) async fn answer(&self, caller: Caller, body: Vec<u8>) -> Vec<u8> {
        match (&self.authority, caller) {
            (Some(authority), _) => to_json(&self.admit(authority, &body).await),
            (None, Caller::Stranger) => match self.pass_on(body).await {
                Ok(answer) => answer,
                Err(error) => to_json(&Err::<Welcome, _>(error)),
            },
            (None, Caller::Node(_)) => to_json(&Err::<Welcome, _>(no_authority())),
        }
    }

    async fn admit(&self, authority: &Authority, body: &[u8]) -> Result<Welcome, ApiError> {
        let invalid = |error: String| ApiError::new(ErrorCode::Invalid, error);
        let application: Application = serde_json::from_slice(body).map_err(|error| {
            invalid(format!("what this machine asked cannot be read: {error}"))
                .hint("is it another version? compare `mill version`")
        })?;
        let Application { certificate, secret, mut ask } = application;
        let refused = |error: PkiError| invalid(error.to_string());
        ask.token = hash_of(&secret);
        // Whoever asks has that key, whatever they say.
        ask.key = pki::key_of_request(&certificate).map_err(refused)?;
        let admitted = self.handle.ask(Request::Join(Box::new(ask))).await?;
        let Answer::Admitted { node, cluster, name, roles, book } = admitted else {
            return Err(ApiError::new(ErrorCode::Internal, "the node answered something else"));
        };
        let signed = authority.sign(&certificate, node, &cluster).map_err(refused)?;
        tracing::info!(%node, name, %roles, "a node joins");
        Ok(Welcome {
            cluster,
            node,
            name,
            certificate: pki::to_pem(&signed),
            authority: pki::to_pem(authority.certificate()),
            with_key: roles.primary.then(|| authority.to_pem()),
            cluster_key: self.cluster_key.reveal(),
            token_hash: self.token_hash.clone(),
            recovery: self.recovery.clone(),
            book,
        })
    }

    async fn pass_on(&self, body: Vec<u8>) -> Result<Vec<u8>, ApiError> {
        let leader = self.consensus.leader().ok_or_else(no_authority)?;
        let asked = self.wire.call(leader, JOIN_PATH, body, ADMITTED_WITHIN).await;
        asked.map(Into::into).map_err(|error| {
            let message = format!("node {leader}, which leads, did not say whether: {error}");
            let error = ApiError::new(ErrorCode::NoLeader, message);
            error.hint("try again in a moment: asking again does no harm")
        })
    }
}

fn no_authority() -> ApiError {
    let message = "this node cannot sign certificates, and does not reach the leader, which can";
    ApiError::new(ErrorCode::NoLeader, message).hint("join at the address of a primary")
}

pub(super) fn to_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents have text keys only")
}

/// What a daemon is asked for, to let others join.
#[derive(Clone, Debug)]
pub struct TokenWish {
    /// The roles that it can give.
    pub roles: Roles,
    /// How long it is good; for ever if absent.
    pub lasts: Option<Duration>,
    /// Whether it is good for one node only.
    pub once: bool,
}

/// Makes a join token, and has the cluster know its hash.
///
/// # Errors
/// When the cluster refuses.
pub(crate) async fn create_token(
    handle: &Handle,
    authority: &str,
    wish: TokenWish,
) -> Result<JoinToken, ApiError> {
    let internal =
        |error: &dyn std::fmt::Display| ApiError::new(ErrorCode::Internal, error.to_string());
    let token = JoinToken::generate(authority.to_owned()).map_err(|error| internal(&error))?;
    let TokenWish { roles, lasts, once } = wish;
    let expires = lasts.map(|lasts| {
        let millis = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        mill_core::time::Wall(clock::wall().0.saturating_add(millis))
    });
    let outcome: Outcome =
        handle.ask(Request::CreateToken { hash: token.hash(), roles, expires, once }).await;
    outcome.map(|_| token)
}
