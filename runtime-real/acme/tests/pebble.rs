//! Every step against pebble, the test server of the makers of Let's Encrypt, in strict mode.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::time::Duration;

use common::answers::Answers;
use common::{BLOCKED, PATIENCE, Pebble, account, answered, closed_port, names};
use mill_acme::{AcmeError, ChallengeKind, Credentials, Directory, ErrorKind, Issued};
use mill_acme::{LocalAuthority, Ordered, complete, inspect, new_key, order, register, renewal};

async fn started() -> (Answers, Pebble) {
    let answers = Answers::start().await;
    let pebble = Pebble::start(&answers, &[]).await;
    (answers, pebble)
}

/// Completes an order by HTTP-01.
async fn completed(
    directory: &Directory,
    credentials: &Credentials,
    ordered: &Ordered,
    names: &[String],
    key: &str,
) -> Result<Issued, AcmeError> {
    let prefer = ChallengeKind::Http01;
    complete(directory, credentials, &ordered.url, names, key, prefer, PATIENCE).await
}

async fn issued_by(kind: ChallengeKind) {
    let (answers, pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test", "www.shop.test"]);
    let ordered = order(&directory, &credentials, &names, None).await.unwrap();
    // Only this kind is answered, so the other one cannot have been asked for.
    let own = ordered.challenges.iter().filter(|one| one.kind == kind).cloned();
    let own: Vec<_> = own.collect();
    assert_eq!((own.len(), ordered.challenges.len()), (2, 4));
    answers.show(&own);
    let url = &ordered.url;
    let issued = complete(&directory, &credentials, url, &names, &key, kind, PATIENCE).await;
    let issued = issued.unwrap();
    let mut seen = inspect(&issued.chain_pem, Some(&key)).unwrap();
    seen.names.sort();
    assert_eq!(seen.names, names);
    assert!(seen.issuer.starts_with("Pebble Intermediate CA"), "{}", seen.issuer);
    let times = (seen.not_before_ms, seen.not_after_ms);
    assert_eq!((issued.not_before_ms, issued.not_after_ms), times);
    assert!(issued.not_before_ms > 1_600_000_000_000, "milliseconds, not seconds");
    assert!(issued.not_after_ms > issued.not_before_ms);
}

#[tokio::test]
async fn http_01_issues_a_certificate() {
    issued_by(ChallengeKind::Http01).await;
}

#[tokio::test]
async fn tls_alpn_01_issues_a_certificate() {
    issued_by(ChallengeKind::TlsAlpn01).await;
}

#[test]
fn an_order_is_completed_by_another_process_than_began_it() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let world = runtime();
    let (answers, pebble) = world.block_on(started());
    let directory = pebble.directory();
    let names = names(&["shop.test"]);
    let (secret, url, key) = runtime().block_on(async {
        let (credentials, key) = account(&directory).await;
        let ordered = answered(&directory, &credentials, &names, &answers).await;
        (credentials.to_text().to_owned(), ordered.url, key)
    });
    let issued = runtime().block_on(async {
        let ordered = Ordered { url, challenges: Vec::new() };
        let credentials = Credentials::from_text(secret);
        completed(&directory, &credentials, &ordered, &names, &key).await.unwrap()
    });
    assert_eq!(inspect(&issued.chain_pem, Some(&key)).unwrap().names, names);
}

#[tokio::test]
async fn a_valid_order_is_downloaded_again_but_not_for_another_key() {
    let (answers, pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test"]);
    let ordered = answered(&directory, &credentials, &names, &answers).await;
    let first = completed(&directory, &credentials, &ordered, &names, &key).await.unwrap();
    let asked = answers.asked();
    let again = completed(&directory, &credentials, &ordered, &names, &key).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(answers.asked(), asked, "names are proven once");
    let other = new_key().unwrap();
    let error = completed(&directory, &credentials, &ordered, &names, &other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OrderGone);
    assert!(error.to_string().contains("the private key belongs to another"), "{error}");
}

#[tokio::test]
async fn two_that_complete_one_order_get_the_same_certificate() {
    let (answers, pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test", "www.shop.test"]);
    let ordered = answered(&directory, &credentials, &names, &answers).await;
    let one = completed(&directory, &credentials, &ordered, &names, &key);
    let other = completed(&directory, &credentials, &ordered, &names, &key);
    let (one, other) = tokio::join!(one, other);
    assert_eq!(one.unwrap(), other.unwrap(), "{}", pebble.log());
}

#[tokio::test]
async fn proven_names_are_not_proven_again() {
    let answers = Answers::start().await;
    let pebble = Pebble::start(&answers, &[("PEBBLE_AUTHZREUSE", "100")]).await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test"]);
    let first = answered(&directory, &credentials, &names, &answers).await;
    let old = completed(&directory, &credentials, &first, &names, &key).await.unwrap();
    let asked = answers.asked();
    let chain = Some(old.chain_pem.as_str());
    let second = order(&directory, &credentials, &names, chain).await.unwrap();
    assert_eq!(second.challenges, []);
    assert_ne!(first.url, second.url);
    let new = completed(&directory, &credentials, &second, &names, &key).await.unwrap();
    assert_ne!(old.chain_pem, new.chain_pem);
    assert_eq!(answers.asked(), asked);
}

#[tokio::test]
async fn a_wait_that_is_cut_short_is_taken_up_again() {
    let (answers, pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test"]);
    let ordered = answered(&directory, &credentials, &names, &answers).await;
    answers.pause();
    let (url, prefer) = (&ordered.url, ChallengeKind::Http01);
    let short = Duration::from_millis(500);
    let cut = complete(&directory, &credentials, url, &names, &key, prefer, short).await;
    let error = cut.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    answers.resume();
    completed(&directory, &credentials, &ordered, &names, &key).await.unwrap();
}

#[tokio::test]
async fn a_name_that_nobody_answers_for_says_why_and_loses_its_order() {
    let mut answers = Answers::start().await;
    answers.http_port = closed_port();
    let pebble = Pebble::start(&answers, &[]).await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test"]);
    let ordered = answered(&directory, &credentials, &names, &answers).await;
    let error = completed(&directory, &credentials, &ordered, &names, &key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Validation, "{error}");
    let words = error.to_string();
    assert!(words.contains("shop.test by http-01"), "{words}");
    assert!(words.contains("connection refused"), "{words}");
    let error = completed(&directory, &credentials, &ordered, &names, &key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OrderGone, "{error}");
    assert!(error.to_string().contains("connection refused"), "{error}");
}

#[tokio::test]
async fn of_several_names_the_one_that_is_not_proven_is_named() {
    let (answers, pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test", "lost.test"]);
    let ordered = order(&directory, &credentials, &names, None).await.unwrap();
    let shop = ordered.challenges.iter().filter(|one| one.name == "shop.test").cloned();
    answers.show(&shop.collect::<Vec<_>>());
    let error = completed(&directory, &credentials, &ordered, &names, &key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Validation, "{error}");
    let words = error.to_string();
    assert!(words.contains("lost.test by http-01"), "{words}");
    assert!(!words.contains("shop.test by"), "{words}");
}

#[tokio::test]
async fn an_authority_that_is_not_there_is_unreachable() {
    let url = format!("https://127.0.0.1:{}/dir", closed_port());
    let error = register(&Directory { url, root: None }, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn a_directory_is_only_trusted_through_its_root() {
    let (_answers, pebble) = started().await;
    let stranger = LocalAuthority::found().unwrap().certificate_pem().to_owned();
    for root in [None, Some(stranger)] {
        let error = register(&Directory { root, ..pebble.directory() }, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        assert!(error.to_string().contains("its TLS certificate is not trusted"), "{error}");
    }
    let root = Some("no PEM".to_owned());
    let error = register(&Directory { root, ..pebble.directory() }, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let url = pebble.directory().url.replace("https", "http");
    let error = register(&Directory { url, root: None }, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[tokio::test]
async fn what_is_no_directory_is_explained() {
    let (_answers, pebble) = started().await;
    let url = pebble.directory().url.replace("/dir", "/elsewhere");
    let error = register(&Directory { url, ..pebble.directory() }, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("did not give its directory: HTTP status 404"), "{error}");
}

#[tokio::test]
async fn names_that_the_authority_does_not_take_are_refused() {
    let (_answers, pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, _) = account(&directory).await;
    for (name, why) in [
        (BLOCKED, "rejectedIdentifier"),
        ("under_score.test", "malformed"),
        ("*.shop.test", "dns-01"),
    ] {
        let error = order(&directory, &credentials, &names(&[name]), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = order(&directory, &credentials, &[], None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[tokio::test]
async fn an_email_that_the_authority_does_not_take_is_refused() {
    let (_answers, pebble) = started().await;
    let error = register(&pebble.directory(), Some("no address")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("register an account"), "{error}");
}

#[tokio::test]
async fn an_account_that_the_authority_forgot_is_to_be_registered_anew() {
    let (answers, mut pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test"]);
    let ordered = answered(&directory, &credentials, &names, &answers).await;
    pebble.restart().await;
    let error = order(&directory, &credentials, &names, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Account, "{error}");
    let error = completed(&directory, &credentials, &ordered, &names, &key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Account, "{error}");
    let (credentials, _) = account(&directory).await;
    let error = completed(&directory, &credentials, &ordered, &names, &key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OrderGone, "{error}");
}

#[tokio::test]
async fn credentials_of_another_directory_or_damaged_ones_are_no_account() {
    let (_answers, pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, _) = account(&directory).await;
    let names = names(&["shop.test"]);
    let elsewhere = Directory { url: format!("{}2", directory.url), ..directory.clone() };
    let error = order(&elsewhere, &credentials, &names, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Account, "{error}");
    let damaged = credentials.to_text().replace("key_pkcs8\":\"", "key_pkcs8\":\"A");
    let key = serde_json::from_str::<serde_json::Value>(&damaged).unwrap();
    let key = key["key_pkcs8"].as_str().unwrap().to_owned();
    for text in [damaged, format!("\"{key}\""), String::new()] {
        let bad = Credentials::from_text(text);
        let error = order(&directory, &bad, &names, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Account, "{error}");
        assert!(!format!("{error} {error:?} {bad:?}").contains(&key[8..24]), "{error:?}");
    }
}

#[tokio::test]
async fn an_order_of_another_account_is_gone() {
    let (answers, pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test"]);
    let ordered = answered(&directory, &credentials, &names, &answers).await;
    let (stranger, _) = account(&directory).await;
    let error = completed(&directory, &stranger, &ordered, &names, &key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OrderGone, "{error}");
}

#[tokio::test]
async fn an_order_of_other_names_is_of_no_use() {
    let (answers, pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let ordered = answered(&directory, &credentials, &names(&["shop.test"]), &answers).await;
    let other = names(&["other.test"]);
    let error = completed(&directory, &credentials, &ordered, &other, &key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OrderGone, "{error}");
}

/// Debian's pebble (2.4) has no renewal information; `authority.rs` plays an authority that has.
#[tokio::test]
async fn without_renewal_information_there_is_no_window() {
    let (answers, pebble) = started().await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test"]);
    let ordered = answered(&directory, &credentials, &names, &answers).await;
    let issued = completed(&directory, &credentials, &ordered, &names, &key).await.unwrap();
    assert_eq!(renewal(&directory, &issued.chain_pem).await.unwrap(), None);
}

/// Which requests meet the fault is up to pebble's dice; `authority.rs` throws none.
#[tokio::test]
async fn bad_nonces_are_answered_with_better_ones() {
    let answers = Answers::start().await;
    let pebble = Pebble::start(&answers, &[("PEBBLE_WFE_NONCEREJECT", "30")]).await;
    let directory = pebble.directory();
    let (credentials, key) = account(&directory).await;
    let names = names(&["shop.test", "www.shop.test", "api.shop.test"]);
    let ordered = answered(&directory, &credentials, &names, &answers).await;
    completed(&directory, &credentials, &ordered, &names, &key).await.unwrap();
}
