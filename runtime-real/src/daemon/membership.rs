//! What makes this machine a node of a cluster: an identity, a key, a certificate, and on primaries
//! the authority. Made by founding a cluster or by joining one, and read again at every start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use mill_core::cluster::Cluster;
use mill_core::cluster::FeatureLevel;
use mill_core::cluster::admission::{Admission, Roles};
use mill_core::cluster::recovery::Survivor;

use super::StartError;
use super::joining::{self, Invitation, JoinError, Joiner, Welcome};
use crate::backup::Backup;
use crate::book;
use crate::clock;
use crate::identity::{self, Claimed, Identity, Opened, PKI_FOLDER};
use crate::mesh::MeshKey;
use crate::pki::{self, Authority, Credentials, PkiError, Store};
use crate::recovery::{self, RecoveryError};
use crate::recovery_key::RecoveryKey;
use crate::rpc::Dial;
use crate::vault::ClusterKey;

/// A node's membership; it holds the data directory for this process.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) opened: Opened,
    pub(super) credentials: Credentials,
    /// Only primaries have it: whoever has says who is a node.
    pub(super) authority: Option<Arc<Authority>>,
    /// What the cluster seals with.
    pub(super) cluster_key: ClusterKey,
    /// This machine's key for the mesh, if it can be part of one.
    pub(super) mesh: Option<MeshKey>,
}

impl Membership {
    /// The node that `data` is of, or the first one of a new cluster.
    pub(super) fn found(
        data: &Path,
        log: &Path,
        name: Option<String>,
        mesh: Option<SocketAddr>,
    ) -> Result<Membership, StartError> {
        let claimed = identity::claim(data)?;
        recovery::finish_swap(&claimed)?;
        let opened = claimed.open(log, || Identity::found(name))?;
        let store = Store::open(&data.join(PKI_FOLDER))?;
        let identity = &opened.identity;
        if store.credentials(&identity.cluster)?.is_none() {
            if identity.joined || identity.has_begun() {
                return Err(PkiError::Lost { folder: store.folder().to_path_buf() }.into());
            }
            sign_oneself(&store, identity)?;
        }
        // A cluster that began before it had one seals from now on.
        if store.cluster_key()?.is_none() && !identity.joined {
            store.keep_cluster_key(&ClusterKey::generate()?)?;
        }
        Membership::read(opened, &store, mesh)
    }

    /// The node that `data` is of, or a new one of the cluster that the invitation is from.
    pub(super) async fn join(
        dial: impl Dial,
        data: &Path,
        log: &Path,
        invitation: &Invitation,
        joiner: &Joiner,
    ) -> Result<Membership, StartError> {
        let claimed = identity::claim(data)?;
        recovery::finish_swap(&claimed)?;
        let store = Store::open(&data.join(PKI_FOLDER))?;
        let identity = match &claimed.known {
            Some(known) => {
                refuse_another_cluster(&claimed, &store, known, invitation)?;
                known.clone()
            }
            None => {
                let key = store.node_key()?;
                let mesh = mesh_key(&store, joiner.mesh)?.map(|mesh| mesh.facts());
                let welcome = joining::ask(dial, &key, mesh, (invitation, joiner)).await?;
                keep(data, &store, &welcome, invitation)?
            }
        };
        let opened = claimed.open(log, || Ok(identity))?;
        Membership::read(opened, &store, joiner.mesh)
    }

    /// A new machine, as the only node of a cluster that was backed up.
    pub(super) fn restore(
        data: &Path,
        log: &Path,
        (backup, key): (&Backup, &RecoveryKey),
        joiner: &Joiner,
    ) -> Result<Membership, StartError> {
        let claimed = identity::claim(data)?;
        if let Some(known) = &claimed.known {
            let (cluster, node) = (known.cluster.clone(), known.node);
            return Err(JoinError::Member { data: data.to_path_buf(), cluster, node }.into());
        }
        let authority = Authority::from_pem(&backup.authority(key)?)?;
        let store = Store::open(&data.join(PKI_FOLDER))?;
        let node_key = store.node_key()?;
        let Joiner { name, advertise, rpc, version, mesh } = joiner.clone();
        let mesh_key = mesh_key(&store, mesh)?;
        let admission = Admission {
            name: name.clone(),
            key: node_key.fingerprint(),
            roles: Roles::default(),
            labels: BTreeMap::new(),
            advertise,
            rpc,
            version,
            supports: FeatureLevel::NEWEST,
            mesh: mesh_key.map(|key| key.facts()),
        };
        let state = Cluster::decode(backup.state.as_bytes()).map_err(RecoveryError::State)?;
        let survivor = Survivor::New(Box::new(admission));
        let recovered = state.recovered(clock::wall(), &survivor);
        let (cluster, node) = recovered.map_err(RecoveryError::Refused)?;
        store.keep_authority(&authority)?;
        store.keep_cluster_key(&backup.cluster_key(key)?.map_or_else(ClusterKey::generate, Ok)?)?;
        let certificate = authority.sign(&node_key.request()?, node, &backup.cluster)?;
        store.keep(authority.certificate(), &certificate)?;
        let kept = (backup.token_hash.clone(), backup.recovery.clone());
        let identity = Identity::joined(backup.cluster.clone(), node, name, kept);
        recovery::make_beside(data, &identity, &cluster)?;
        let opened = claimed.open(log, || Ok(identity))?;
        recovery::swap(data)?;
        Membership::read(opened, &store, mesh)
    }

    fn read(
        opened: Opened,
        store: &Store,
        mesh: Option<SocketAddr>,
    ) -> Result<Membership, StartError> {
        let credentials = store.credentials(&opened.identity.cluster)?;
        let lost = || PkiError::Lost { folder: store.folder().to_path_buf() };
        let credentials = credentials.ok_or_else(lost)?;
        let authority = store.authority()?.map(Arc::new);
        let cluster_key = store.cluster_key()?.ok_or_else(lost)?;
        let mesh = mesh_key(store, mesh)?;
        Ok(Membership { opened, credentials, authority, cluster_key, mesh })
    }
}

/// This machine's key for the mesh, for datagrams that come in there.
fn mesh_key(store: &Store, endpoint: Option<SocketAddr>) -> Result<Option<MeshKey>, PkiError> {
    endpoint.map(|endpoint| MeshKey::open(store.folder(), endpoint)).transpose()
}

/// The first node's certificate, under an authority that begins with it.
fn sign_oneself(store: &Store, identity: &Identity) -> Result<(), PkiError> {
    let authority = store.authority()?;
    let authority = authority.map_or_else(|| Authority::found(&identity.cluster), Ok)?;
    store.keep_authority(&authority)?;
    let request = store.node_key()?.request()?;
    let certificate = authority.sign(&request, identity.node, &identity.cluster)?;
    store.keep(authority.certificate(), &certificate)
}

/// Keeps what the cluster gave; the identity comes last, so that a power cut leaves a machine that
/// asks again, with the same key.
fn keep(
    data: &Path,
    store: &Store,
    welcome: &Welcome,
    invitation: &Invitation,
) -> Result<Identity, StartError> {
    let certificate = pki::from_pem(&welcome.certificate)?;
    let authority = pki::from_pem(&welcome.authority)?;
    let named = pki::node_in(&certificate, &welcome.cluster);
    if pki::fingerprint(&authority) != invitation.token.authority || named != Some(welcome.node) {
        return Err(JoinError::Garbled { address: invitation.address.clone() }.into());
    }
    if let Some(whole) = &welcome.with_key {
        store.keep_authority(&Authority::from_pem(whole)?)?;
    }
    let garbled = || JoinError::Garbled { address: invitation.address.clone() };
    store.keep_cluster_key(&ClusterKey::read(&welcome.cluster_key).ok_or_else(garbled)?)?;
    store.keep(&authority, &certificate)?;
    book::keep(&welcome.book, data)
        .map_err(|source| StartError::Disk { path: data.to_owned(), source })?;
    let Welcome { cluster, node, name, token_hash, recovery, .. } = welcome.clone();
    Ok(Identity::joined(cluster, node, name, (token_hash, recovery)))
}

/// A machine that is a node already goes on as that, if that is what the person means.
fn refuse_another_cluster(
    claimed: &Claimed,
    store: &Store,
    known: &Identity,
    invitation: &Invitation,
) -> Result<(), StartError> {
    let credentials = store.credentials(&known.cluster)?;
    let authority = credentials.map(|credentials| pki::fingerprint(&credentials.authority));
    if authority.is_none_or(|authority| authority == invitation.token.authority) {
        return Ok(());
    }
    let (cluster, node) = (known.cluster.clone(), known.node);
    let data = claimed.directory().to_path_buf();
    Err(JoinError::OtherCluster { data, cluster, node }.into())
}
