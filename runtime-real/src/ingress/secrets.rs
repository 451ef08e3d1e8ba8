//! Certificates and answers to authorities, from what the tables have of them.

use std::fmt::Display;

use mill_core::acme::{Challenge, ChallengeKind};
use mill_core::net::{Shown, Tables};
use mill_ingress::{CertificateSet, Challenges, Ingress};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::vault::{Purpose, Vault};

/// What was read last, and from what.
#[derive(Default)]
pub(super) struct Secrets {
    shown: Vec<Shown>,
    asked: Vec<Challenge>,
    set: CertificateSet,
    challenges: Challenges,
    /// What of it cannot be used.
    pub(super) trouble: Option<String>,
}

impl Secrets {
    /// Reads what the tables have, if that is something else than before.
    pub(super) fn read(&mut self, tables: &Tables, vault: &Vault, local: bool) {
        if self.shown == tables.certificates && self.asked == tables.challenges {
            return;
        }
        let mut secrets = Secrets {
            shown: tables.certificates.clone(),
            asked: tables.challenges.clone(),
            ..Secrets::default()
        };
        for shown in &tables.certificates {
            if let Err(error) = add(&mut secrets.set, shown, vault, local) {
                secrets.trouble = Some(format!("{}: {error}", shown.names.join(", ")));
            }
        }
        for challenge in &tables.challenges {
            if let Err(error) = answer(&mut secrets.challenges, challenge) {
                secrets.trouble = Some(format!("{}: {error}", challenge.name));
            }
        }
        *self = secrets;
    }

    /// Gives them to an ingress.
    pub(super) fn give(&self, ingress: &Ingress) {
        ingress.certificates().replace(self.set.clone());
        ingress.certificates().replace_challenges(self.challenges.clone());
    }
}

fn add(set: &mut CertificateSet, shown: &Shown, vault: &Vault, local: bool) -> Result<(), String> {
    let key = vault.open(Purpose::CertificateKey, &shown.issued.key).map_err(words)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(words)?;
    let chain = CertificateDer::pem_slice_iter(shown.issued.chain.as_bytes());
    let chain: Vec<CertificateDer<'static>> = chain.collect::<Result<_, _>>().map_err(words)?;
    let mut names = shown.names.clone();
    if local {
        names.extend(shown.names.iter().map(|name| format!("{name}.localhost")));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    set.add(&names, chain, &key).map_err(words)?;
    if let (true, Some(name)) = (shown.default, names.first()) {
        set.set_default(name);
    }
    Ok(())
}

fn answer(challenges: &mut Challenges, challenge: &Challenge) -> Result<(), String> {
    let Challenge { kind, name, token, authorization } = challenge;
    match kind {
        ChallengeKind::Http01 => {
            challenges.http.insert(token.clone(), authorization.clone());
        }
        ChallengeKind::TlsAlpn01 => {
            let made = mill_acme::tls_alpn_certificate(name, authorization);
            let (certificate, key) = made.map_err(words)?;
            challenges.add_tls_alpn(name, certificate, &key).map_err(words)?;
        }
    }
    Ok(())
}

fn words(error: impl Display) -> String {
    error.to_string()
}
