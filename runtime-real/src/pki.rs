//! Certificates of a cluster: one authority, one key per node, made where they are used.
//!
//! A node's private key never leaves it; what travels is a request to sign. A certificate names its
//! node and its cluster and does not expire: whether a node belongs to the cluster is decided by
//! the replicated state, and a wrong clock must not show as a broken connection. Keys are Ed25519
//! (RFC 8410), files are PEM and for the daemon's user alone. Tested below and in `rpc`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use mill_core::name::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::digest::sha256;
use crate::private;
use crate::vault::ClusterKey;

/// Every node's certificate is valid for this name, which a joiner asks for.
pub const ANY_NODE: &str = "node.mill";

const AUTHORITY_FILE: &str = "ca.pem";
const AUTHORITY_KEY_FILE: &str = "ca.key";
const CERTIFICATE_FILE: &str = "node.pem";
const KEY_FILE: &str = "node.key";
const CLUSTER_KEY_FILE: &str = "cluster.key";

/// Why keys or certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The disk refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// A verb that the path completes.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is damaged ({detail}); restore it from a backup, or join the cluster again with an \
             empty data directory", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// There is no randomness for a key.
    #[error("cannot make a key: {0}")]
    Make(String),
    /// A request to sign, or a certificate that was sent, makes no sense.
    #[error("what was sent is not a certificate, nor a request for one: {0}")]
    Request(String),
    /// The keys of a node that has begun are not there.
    #[error(
        "the keys of this node are missing from {}: restore them from a backup; or remove the node \
         on another one with `mill node rm`, and join the cluster again with an empty data directory",
        folder.display()
    )]
    Lost {
        /// Where they should be.
        folder: PathBuf,
    },
    /// The library refused.
    #[error("making a certificate failed: {0}")]
    Making(#[from] rcgen::Error),
}

/// The name that a node's certificate is valid for.
pub fn name_of(node: NodeId, cluster: &str) -> String {
    format!("n{}.{cluster}.mill", node.0)
}

/// The node that a certificate of this cluster's authority is for.
pub fn node_in(certificate: &CertificateDer<'_>, cluster: &str) -> Option<NodeId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let ending = format!(".{cluster}.mill");
    certificate.valid_dns_names().find_map(|name| {
        let number = name.strip_suffix(&ending)?.strip_prefix('n')?;
        number.parse().ok().map(NodeId)
    })
}

/// The fingerprint of the public key in a certificate, as [`NodeKey::fingerprint`] tells it.
pub fn key_in(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(sha256(&certificate.subject_public_key_info()))
}

/// The fingerprint of the key that a request to sign is for, whose owner made it.
///
/// # Errors
/// When it is not a request, or was not made by who holds its key.
pub fn key_of_request(request: &str) -> Result<String, PkiError> {
    let asked = CertificateSigningRequestParams::from_pem(request);
    let asked = asked.map_err(|error| PkiError::Request(error.to_string()))?;
    Ok(sha256(&asked.public_key.subject_public_key_info()))
}

/// SHA-256 of a certificate, in hex: what a join token carries of the authority.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    sha256(certificate)
}

/// The authority: whoever holds its key says who is a node.
#[derive(Debug)]
pub struct Authority {
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// Makes the authority of a new cluster.
    ///
    /// # Errors
    /// When there is no entropy.
    pub fn found(cluster: &str) -> Result<Authority, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = lasting(Vec::new(), &format!("mill cluster {cluster}"))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Authority { key, certificate })
    }

    /// Its certificate, which everybody may see.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its key and certificate as text, for another primary of the same cluster.
    pub fn to_pem(&self) -> AuthorityPem {
        let certificate = to_pem(&self.certificate);
        AuthorityPem { certificate, key: self.key.serialize_pem() }
    }

    /// The reverse of [`Authority::to_pem`].
    ///
    /// # Errors
    /// When it is not an authority's.
    pub fn from_pem(text: &AuthorityPem) -> Result<Authority, PkiError> {
        let wrong = |error: rcgen::Error| PkiError::Request(error.to_string());
        let key = KeyPair::from_pem(&text.key).map_err(wrong)?;
        Ok(Authority { key, certificate: from_pem(&text.certificate)? })
    }

    /// Signs a node's request: a certificate for that node, whatever else the request says.
    ///
    /// # Errors
    /// When the request is not one, or was not made by who holds its key.
    pub fn sign(
        &self,
        request: &str,
        node: NodeId,
        cluster: &str,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let asked = CertificateSigningRequestParams::from_pem(request);
        let asked = asked.map_err(|error| PkiError::Request(error.to_string()))?;
        let name = name_of(node, cluster);
        let mut params = lasting(vec![name.clone(), ANY_NODE.to_owned()], &name)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key)?;
        Ok(params.signed_by(&asked.public_key, &issuer)?.der().clone())
    }
}

/// An authority as text. Its `Debug` says nothing of the key.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct AuthorityPem {
    /// Its certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for AuthorityPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorityPem").finish_non_exhaustive()
    }
}

/// A certificate that is valid whatever a clock says.
fn lasting(names: Vec<String>, common: &str) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    Ok(params)
}

/// A node's own key.
#[derive(Debug)]
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// Makes one.
    ///
    /// # Errors
    /// When there is no entropy.
    pub fn generate() -> Result<NodeKey, PkiError> {
        Ok(NodeKey(KeyPair::generate_for(&PKCS_ED25519)?))
    }

    /// SHA-256 of its public half (SubjectPublicKeyInfo, RFC 5280), in hex.
    pub fn fingerprint(&self) -> String {
        sha256(&self.0.subject_public_key_info())
    }

    /// Asks for a certificate; proves that whoever asks has the key.
    ///
    /// # Errors
    /// When signing fails.
    pub fn request(&self) -> Result<String, PkiError> {
        Ok(CertificateParams::default().serialize_request(&self.0)?.pem()?)
    }

    fn secret(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.serialize_der().into())
    }
}

/// All that a node shows and checks when it speaks with others of its cluster.
#[derive(Debug)]
pub struct Credentials {
    /// The cluster.
    pub cluster: String,
    /// The authority's certificate.
    pub authority: CertificateDer<'static>,
    /// This node's certificate.
    pub certificate: CertificateDer<'static>,
    key: NodeKey,
}

impl Credentials {
    /// Puts them together.
    pub fn new(
        cluster: String,
        authority: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: NodeKey,
    ) -> Credentials {
        Credentials { cluster, authority, certificate, key }
    }

    /// Fingerprint of this node's key.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint()
    }

    /// The private key, for the TLS library.
    pub(crate) fn secret(&self) -> PrivateKeyDer<'static> {
        self.key.secret()
    }
}

/// The folder in which a node keeps its keys and certificates.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Opens the folder; makes it if need be.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(folder: &Path) -> Result<Store, PkiError> {
        private::folder(folder).map_err(io_error("create", folder))?;
        Ok(Store { folder: folder.to_path_buf() })
    }

    /// This node's key: read, or made and kept before anybody hears of it.
    ///
    /// # Errors
    /// When the file is damaged or the disk refuses.
    pub fn node_key(&self) -> Result<NodeKey, PkiError> {
        let path = self.folder.join(KEY_FILE);
        if let Some(text) = read(&path)? {
            return KeyPair::from_pem(&text).map(NodeKey).map_err(damaged(&path));
        }
        let key = NodeKey::generate()?;
        self.write(KEY_FILE, key.0.serialize_pem().as_bytes())?;
        Ok(key)
    }

    /// The certificates, if this node was given any.
    ///
    /// # Errors
    /// When a file is damaged or the disk refuses.
    pub fn credentials(&self, cluster: &str) -> Result<Option<Credentials>, PkiError> {
        let authority = self.certificate(AUTHORITY_FILE)?;
        let certificate = self.certificate(CERTIFICATE_FILE)?;
        let (Some(authority), Some(certificate)) = (authority, certificate) else {
            return Ok(None);
        };
        Ok(Some(Credentials::new(cluster.to_owned(), authority, certificate, self.node_key()?)))
    }

    /// Keeps this node's certificate and that of the authority.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep(
        &self,
        authority: &CertificateDer<'_>,
        certificate: &CertificateDer<'_>,
    ) -> Result<(), PkiError> {
        self.write(AUTHORITY_FILE, to_pem(authority).as_bytes())?;
        self.write(CERTIFICATE_FILE, to_pem(certificate).as_bytes())
    }

    /// The cluster's key, if this node was given it.
    ///
    /// # Errors
    /// When the file is damaged or the disk refuses.
    pub fn cluster_key(&self) -> Result<Option<ClusterKey>, PkiError> {
        let path = self.folder.join(CLUSTER_KEY_FILE);
        let Some(text) = read(&path)? else { return Ok(None) };
        let wrong = || PkiError::Damaged { path, detail: "it is not a key".to_owned() };
        ClusterKey::read(&text).map(Some).ok_or_else(wrong)
    }

    /// Keeps the cluster's key.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep_cluster_key(&self, key: &ClusterKey) -> Result<(), PkiError> {
        self.write(CLUSTER_KEY_FILE, key.reveal().as_bytes())
    }

    /// Keeps the authority itself: only primaries do.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep_authority(&self, authority: &Authority) -> Result<(), PkiError> {
        let AuthorityPem { certificate, key } = authority.to_pem();
        self.write(AUTHORITY_KEY_FILE, key.as_bytes())?;
        self.write(AUTHORITY_FILE, certificate.as_bytes())
    }

    /// The authority, if this node has it.
    ///
    /// # Errors
    /// When a file is damaged or the disk refuses.
    pub fn authority(&self) -> Result<Option<Authority>, PkiError> {
        let path = self.folder.join(AUTHORITY_KEY_FILE);
        let (Some(key), Some(certificate)) = (read(&path)?, self.certificate(AUTHORITY_FILE)?)
        else {
            return Ok(None);
        };
        let key = KeyPair::from_pem(&key).map_err(damaged(&path))?;
        Ok(Some(Authority { key, certificate }))
    }

    fn certificate(&self, file: &str) -> Result<Option<CertificateDer<'static>>, PkiError> {
        let path = self.folder.join(file);
        let Some(text) = read(&path)? else { return Ok(None) };
        CertificateDer::from_pem_slice(text.as_bytes()).map(Some).map_err(damaged(&path))
    }

    fn write(&self, file: &str, bytes: &[u8]) -> Result<(), PkiError> {
        let path = self.folder.join(file);
        private::replace(&path, bytes).map_err(io_error("write", &path))
    }
}

/// A certificate as text.
pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", certificate)
}

/// The reverse of [`to_pem`].
///
/// # Errors
/// When it is not a certificate's.
pub fn from_pem(text: &str) -> Result<CertificateDer<'static>, PkiError> {
    let parsed = CertificateDer::from_pem_slice(text.as_bytes());
    parsed.map_err(|error| PkiError::Request(error.to_string()))
}

fn pem(label: &str, bytes: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    // Lines of 64 characters (RFC 7468, section 2).
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_path_buf();
    move |source| PkiError::Io { doing, path, source }
}

fn damaged<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> PkiError {
    let path = path.to_path_buf();
    move |error| PkiError::Damaged { path, detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_its_node_its_cluster_and_its_key() {
        let authority = Authority::found("c1").unwrap();
        let key = NodeKey::generate().unwrap();
        let signed = authority.sign(&key.request().unwrap(), NodeId(7), "c1").unwrap();
        assert_eq!(node_in(&signed, "c1"), Some(NodeId(7)));
        assert_eq!(node_in(&signed, "c2"), None);
        assert_eq!(key_in(&signed), Some(key.fingerprint()));
        assert_ne!(fingerprint(authority.certificate()), fingerprint(&signed));
    }

    #[test]
    fn keys_are_made_once_and_kept_for_their_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("pki");
        let store = Store::open(&folder).unwrap();
        let key = store.node_key().unwrap();
        assert_eq!(store.node_key().unwrap().fingerprint(), key.fingerprint());
        assert!(store.credentials("c1").unwrap().is_none() && store.authority().unwrap().is_none());
        let authority = Authority::found("c1").unwrap();
        let signed = authority.sign(&key.request().unwrap(), NodeId(1), "c1").unwrap();
        store.keep_authority(&authority).unwrap();
        store.keep(authority.certificate(), &signed).unwrap();
        let read = Store::open(&folder).unwrap();
        assert_eq!(read.credentials("c1").unwrap().unwrap().certificate, signed);
        let again = read.authority().unwrap().unwrap();
        assert_eq!(again.certificate(), authority.certificate());
        let moved = Authority::from_pem(&again.to_pem()).unwrap();
        assert_eq!(moved.certificate(), authority.certificate());
        for file in [KEY_FILE, AUTHORITY_KEY_FILE, CERTIFICATE_FILE] {
            let mode = fs::metadata(folder.join(file)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{file}");
        }
    }

    #[test]
    fn what_is_damaged_or_no_request_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::write(dir.path().join(KEY_FILE), "no key").unwrap();
        let told = store.node_key().unwrap_err().to_string();
        assert!(told.contains("node.key is damaged"), "{told}");
        let authority = Authority::found("c1").unwrap();
        assert!(authority.sign("no request", NodeId(1), "c1").is_err());
        let shown = format!("{:?}", authority.to_pem());
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }
}
