//! The local authority against a real TLS client, and what is said about certificates that people
//! bring.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::Arc;

use mill_acme::{ErrorKind, ImportError, LocalAuthority, MAX_LEAF_DAYS, MAX_PEM_BYTES, inspect};
use mill_acme::{new_key, tls_alpn_certificate};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// A TLS handshake, in memory, of a client that trusts this authority and asks for this name.
fn handshake(root: &str, chain: &str, key: &str, name: &str) -> Result<(), rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

fn found() -> LocalAuthority {
    LocalAuthority::found().unwrap()
}

#[test]
fn clients_that_trust_the_authority_trust_its_certificates() {
    let own = found();
    let asked = names(&["shop.localhost", "*.mill.localhost", "127.0.0.1", "::1"]);
    let (chain, key) = own.issue(&asked, 90).unwrap();
    for name in ["shop.localhost", "any.mill.localhost", "127.0.0.1", "::1"] {
        handshake(own.certificate_pem(), &chain, &key, name).unwrap();
    }
    for name in ["other.localhost", "a.b.mill.localhost", "127.0.0.2"] {
        handshake(own.certificate_pem(), &chain, &key, name).unwrap_err();
    }
    let stranger = found();
    handshake(stranger.certificate_pem(), &chain, &key, "shop.localhost").unwrap_err();
    let seen = inspect(&chain, Some(&key)).unwrap();
    assert_eq!(seen.names, asked);
    assert!(seen.issuer.starts_with("Mill development authority "), "{}", seen.issuer);
    let (hour, day) = (3_600_000, 86_400_000);
    assert_eq!(seen.not_after_ms - seen.not_before_ms, 90 * day + hour);
}

#[test]
fn an_authority_that_was_stored_goes_on() {
    let own = found();
    let (certificate, key) = own.to_pem();
    let again = LocalAuthority::from_pem(&certificate, &key).unwrap();
    assert_eq!(again.to_pem(), (certificate.clone(), key));
    let (chain, key) = again.issue(&names(&["shop.localhost"]), 7).unwrap();
    handshake(&certificate, &chain, &key, "shop.localhost").unwrap();
}

#[test]
fn what_is_no_authority_is_refused() {
    let (own, stranger) = (found(), found());
    let (certificate, key) = own.to_pem();
    let wrong = LocalAuthority::from_pem(&certificate, &stranger.to_pem().1);
    assert_eq!(wrong.unwrap_err(), ImportError::KeyMismatch);
    let (leaf, leaf_key) = own.issue(&names(&["shop.localhost"]), 7).unwrap();
    let wrong = LocalAuthority::from_pem(&leaf, &leaf_key);
    assert_eq!(wrong.unwrap_err(), ImportError::NoAuthority);
    assert_eq!(LocalAuthority::from_pem("", &key).unwrap_err(), ImportError::NoCertificate);
}

#[test]
fn two_authorities_have_different_names() {
    let issuer = |own: LocalAuthority| {
        inspect(&own.issue(&names(&["a.test"]), 1).unwrap().0, None).unwrap().issuer
    };
    assert_ne!(issuer(found()), issuer(found()));
}

#[test]
fn certificates_that_no_client_would_take_are_not_made() {
    let own = found();
    let one = names(&["shop.localhost"]);
    for (names, days) in [(&[][..], 7), (&one, 0), (&one, MAX_LEAF_DAYS + 1)] {
        assert_eq!(own.issue(names, days).unwrap_err().kind(), ErrorKind::Refused);
    }
    let error = own.issue(&names(&["caf\u{e9}.test"]), 7).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("caf\u{e9}.test"), "{error}");
}

#[test]
fn debug_output_contains_no_key() {
    let own = found();
    let key = own.to_pem().1;
    let line = key.lines().nth(1).unwrap();
    assert!(!format!("{own:?}").contains(&line[..16]));
}

#[test]
fn keys_are_of_the_kind_that_everybody_takes() {
    let key = new_key().unwrap();
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"), "PKCS#8");
    assert_ne!(key, new_key().unwrap());
}

#[test]
fn garbage_is_explained() {
    let (chain, key) = found().issue(&names(&["shop.test"]), 7).unwrap();
    let cut = &chain[..chain.len() / 2];
    let der = "-----BEGIN CERTIFICATE-----\nTm90IERFUg==\n-----END CERTIFICATE-----\n";
    for (chain, expected) in [
        ("", "there is no certificate in it"),
        ("hello", "there is no certificate in it"),
        (key.as_str(), "there is no certificate in it"),
        (cut, "the certificate is damaged PEM"),
        (der, "certificate 1 of the chain cannot be read"),
        (&format!("{chain}{der}"), "certificate 2 of the chain cannot be read"),
        (&chain.repeat(11), "11 certificates are more than"),
        (&" ".repeat(MAX_PEM_BYTES + 1), "65537 bytes are more than"),
    ] {
        let error = inspect(chain, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_certificate_for_nobody_is_refused() {
    let authority = found().certificate_pem().to_owned();
    assert_eq!(inspect(&authority, None), Err(ImportError::NoNames));
}

#[test]
fn the_leaf_must_come_first() {
    let own = found();
    let (leaf, key) = own.issue(&names(&["shop.test"]), 7).unwrap();
    let right = format!("{leaf}{}", own.certificate_pem());
    assert_eq!(inspect(&right, Some(&key)).unwrap().names, names(&["shop.test"]));
    let wrong = format!("{}{leaf}", own.certificate_pem());
    let error = inspect(&wrong, Some(&key)).unwrap_err();
    assert!(matches!(error, ImportError::LeafNotFirst { .. }), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let own = found();
    let (chain, key) = own.issue(&names(&["shop.test"]), 7).unwrap();
    let other = new_key().unwrap();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGj\n-----END ENCRYPTED PRIVATE KEY-----";
    let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n\
               MIGj\n-----END EC PRIVATE KEY-----";
    let broken = "-----BEGIN PRIVATE KEY-----\nMIGj\n-----END PRIVATE KEY-----";
    for (key, expected) in [
        (key.as_str(), Ok(())),
        (&other, Err(ImportError::KeyMismatch)),
        (encrypted, Err(ImportError::EncryptedKey)),
        (old, Err(ImportError::EncryptedKey)),
        (broken, Err(ImportError::KeyKind)),
        (&chain, Err(ImportError::NoKey)),
        ("", Err(ImportError::NoKey)),
    ] {
        assert_eq!(inspect(&chain, Some(key)).map(drop), expected);
    }
}

#[test]
fn a_key_and_its_certificate_may_be_in_one_file() {
    let (chain, key) = found().issue(&names(&["Shop.TEST"]), 7).unwrap();
    let both = format!("{key}{chain}");
    assert_eq!(inspect(&both, Some(&both)).unwrap().names, names(&["shop.test"]));
}

#[test]
fn the_answer_to_tls_alpn_carries_the_critical_extension() {
    let (certificate, _) = tls_alpn_certificate("shop.test", "token.thumbprint").unwrap();
    // RFC 8737 section 3: id-pe-acmeIdentifier, critical, the SHA-256 of the authorization.
    let oid_and_critical = [6, 8, 43, 6, 1, 5, 5, 7, 1, 31, 1, 1, 255];
    assert!(certificate.windows(13).any(|bytes| bytes == oid_and_critical));
    let error = tls_alpn_certificate("caf\u{e9}.test", "token.thumbprint").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}
