//! What authorities say that pebble does not: limits, trouble, orders that take their time, and
//! when to renew.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::time::Duration;

use common::fake::{Answer, Fake};
use common::{PATIENCE, account, names};
use mill_acme::renewal;
use mill_acme::{AcmeError, ChallengeKind, ErrorKind, LocalAuthority, complete, order, register};
use serde_json::{Value, json};

async fn refused_order(answer: Answer) -> AcmeError {
    let fake = Fake::start(false).await;
    let (credentials, _) = account(&fake.directory()).await;
    fake.say("/order", answer);
    order(&fake.directory(), &credentials, &names(&["shop.test"]), None).await.unwrap_err()
}

#[tokio::test]
async fn a_limit_says_how_long_to_wait() {
    let limit = Answer::problem(429, "rateLimited", "too many certificates for shop.test");
    let error = refused_order(limit.clone()).await;
    assert_eq!(error.kind(), ErrorKind::RateLimited { retry_after: None });
    assert!(error.to_string().contains("too many certificates for shop.test"), "{error}");
    let error = refused_order(limit.clone().with("retry-after", "120")).await;
    let retry_after = Some(Duration::from_secs(120));
    assert_eq!(error.kind(), ErrorKind::RateLimited { retry_after });
    // An authority that sheds load sends no problem document of its own.
    let error = refused_order(Answer::text(503, "busy").with("retry-after", "120")).await;
    assert_eq!(error.kind(), ErrorKind::RateLimited { retry_after });
}

#[tokio::test]
async fn a_limit_may_name_a_date() {
    let limit = Answer::problem(429, "rateLimited", "too many");
    let past = "Fri, 31 Dec 1999 23:59:59 GMT";
    let error = refused_order(limit.clone().with("retry-after", past)).await;
    let retry_after = Some(Duration::ZERO);
    assert_eq!(error.kind(), ErrorKind::RateLimited { retry_after });
    let future = "Tue, 31 Dec 2199 23:59:59 GMT";
    let error = refused_order(limit.with("retry-after", future)).await;
    let ErrorKind::RateLimited { retry_after: Some(wait) } = error.kind() else {
        panic!("{error:?}")
    };
    assert!(wait > Duration::from_secs(3_600), "{wait:?}");
}

#[tokio::test]
async fn trouble_of_the_authority_is_no_refusal() {
    for answer in [
        Answer::problem(500, "serverInternal", "broken"),
        Answer::text(502, "<html>Bad Gateway</html>"),
        Answer::text(200, "<html>Welcome</html>"),
    ] {
        let error = refused_order(answer).await;
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    }
}

#[tokio::test]
async fn a_deactivated_account_is_to_be_registered_anew() {
    let error = refused_order(Answer::problem(403, "unauthorized", "account deactivated")).await;
    assert_eq!(error.kind(), ErrorKind::Account, "{error}");
}

#[tokio::test]
async fn of_a_compound_problem_every_part_is_told() {
    let answer = Answer::json(
        400,
        json!({
            "type": "urn:ietf:params:acme:error:malformed",
            "detail": "two names were refused",
            "subproblems": [
                { "detail": "on a list", "identifier": { "type": "dns", "value": "a.test" } },
                { "detail": "no such end", "identifier": { "type": "dns", "value": "b.tst" } },
            ],
        }),
    );
    let error = refused_order(answer).await;
    assert_eq!(error.kind(), ErrorKind::Refused);
    let words = "two names were refused; a.test: on a list; b.tst: no such end (malformed)";
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn an_authority_that_wants_a_contract_is_refused_with_its_words() {
    let fake = Fake::start(false).await;
    let answer = Answer::problem(403, "externalAccountRequired", "bind an account first");
    fake.say("/account", answer);
    let error = register(&fake.directory(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("bind an account first"), "{error}");
}

/// The clock jumps to the next timer whenever nothing else can happen.
#[tokio::test(start_paused = true)]
async fn an_authority_that_never_answers_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/dir", silent.local_addr().unwrap());
    let root = Some(LocalAuthority::found().unwrap().certificate_pem().to_owned());
    let error = register(&mill_acme::Directory { url, root }, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}

/// An order in this state, with one authorization.
fn order_state(fake: &Fake, status: &str, more: Value) -> Answer {
    let mut state = json!({
        "status": status,
        "authorizations": [fake.at("/authorization")],
        "finalize": fake.at("/finalize"),
    });
    for (key, value) in more.as_object().unwrap() {
        state[key] = value.clone();
    }
    Answer::json(200, state)
}

fn authorization(fake: &Fake, status: &str, challenge: &str) -> Answer {
    Answer::json(
        200,
        json!({
            "status": status,
            "identifier": { "type": "dns", "value": "shop.test" },
            "challenges": [
                { "type": "http-01", "url": fake.at("/c"), "token": "t", "status": challenge },
            ],
        }),
    )
}

#[tokio::test]
async fn every_state_of_an_order_is_gone_through() {
    let fake = Fake::start(false).await;
    let (credentials, _) = account(&fake.directory()).await;
    let names = names(&["shop.test"]);
    let (chain, key) = LocalAuthority::found().unwrap().issue(&names, 90).unwrap();
    let valid = json!({ "certificate": fake.at("/certificate") });
    fake.say_in_turn(
        "/order/1",
        vec![
            order_state(&fake, "pending", json!({})),
            order_state(&fake, "pending", json!({})),
            order_state(&fake, "ready", json!({})),
            order_state(&fake, "processing", json!({})),
            order_state(&fake, "valid", valid),
        ],
    );
    fake.say("/authorization", authorization(&fake, "pending", "pending"));
    let challenge = json!({
        "type": "http-01", "url": fake.at("/c"), "token": "t", "status": "pending",
    });
    fake.say("/c", Answer::json(200, challenge));
    fake.say("/finalize", order_state(&fake, "processing", json!({})));
    fake.say("/certificate", Answer::text(200, &chain));
    let (url, http) = (fake.at("/order/1"), ChallengeKind::Http01);
    let directory = fake.directory();
    // The preferred kind is not offered, so the other one is used.
    for prefer in [ChallengeKind::TlsAlpn01, http] {
        let got = complete(&directory, &credentials, &url, &names, &key, prefer, PATIENCE).await;
        assert_eq!(got.unwrap().chain_pem, chain);
    }
    // Boulder leaves a challenge pending while it checks: it must not be told again.
    assert_eq!(fake.asked("/c").len(), 1);
    assert_eq!(fake.asked("/finalize").len(), 1);
    assert_eq!(fake.asked("/certificate").len(), 2);
}

#[tokio::test]
async fn steps_that_another_process_has_just_made_are_no_error() {
    let fake = Fake::start(false).await;
    let (credentials, _) = account(&fake.directory()).await;
    let names = names(&["shop.test"]);
    let (chain, key) = LocalAuthority::found().unwrap().issue(&names, 90).unwrap();
    let valid = json!({ "certificate": fake.at("/certificate") });
    fake.say_in_turn(
        "/order/1",
        vec![
            order_state(&fake, "pending", json!({})),
            order_state(&fake, "pending", json!({})),
            order_state(&fake, "ready", json!({})),
            order_state(&fake, "processing", json!({})),
            order_state(&fake, "valid", valid),
        ],
    );
    fake.say_in_turn(
        "/authorization",
        vec![
            authorization(&fake, "pending", "pending"),
            authorization(&fake, "pending", "processing"),
        ],
    );
    fake.say("/c", Answer::problem(400, "malformed", "the challenge is not pending"));
    fake.say("/finalize", Answer::problem(403, "orderNotReady", "it is processing"));
    fake.say("/certificate", Answer::text(200, &chain));
    let (directory, url) = (fake.directory(), fake.at("/order/1"));
    let http = ChallengeKind::Http01;
    let got = complete(&directory, &credentials, &url, &names, &key, http, PATIENCE).await;
    assert_eq!(got.unwrap().chain_pem, chain);
    assert_eq!((fake.asked("/c").len(), fake.asked("/finalize").len()), (1, 1));
}

#[tokio::test]
async fn an_order_whose_names_cannot_be_proven_here_is_refused() {
    let fake = Fake::start(false).await;
    let (credentials, key) = account(&fake.directory()).await;
    let names = names(&["shop.test"]);
    let made = order_state(&fake, "pending", json!({}));
    fake.say("/order", made.clone().with("location", fake.at("/order/1")));
    fake.say("/order/1", made);
    let dns = json!({ "type": "dns-01", "url": fake.at("/c"), "token": "t", "status": "pending" });
    let state = json!({
        "status": "pending",
        "identifier": { "type": "dns", "value": "shop.test" },
        "challenges": [dns],
    });
    fake.say("/authorization", Answer::json(200, state));
    let directory = fake.directory();
    let error = order(&directory, &credentials, &names, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let (url, kind) = (fake.at("/order/1"), ChallengeKind::Http01);
    let got = complete(&directory, &credentials, &url, &names, &key, kind, PATIENCE).await;
    assert_eq!(got.unwrap_err().kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn a_challenge_that_the_authority_will_not_check_ends_the_step() {
    let fake = Fake::start(false).await;
    let (credentials, key) = account(&fake.directory()).await;
    let names = names(&["shop.test"]);
    fake.say("/order/1", order_state(&fake, "pending", json!({})));
    fake.say("/authorization", authorization(&fake, "pending", "pending"));
    fake.say("/c", Answer::problem(429, "rateLimited", "too many failed validations"));
    let (directory, url) = (fake.directory(), fake.at("/order/1"));
    let http = ChallengeKind::Http01;
    let got = complete(&directory, &credentials, &url, &names, &key, http, PATIENCE).await;
    let error = got.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited { retry_after: None }, "{error}");
    assert!(error.to_string().contains("too many failed validations"), "{error}");
}

#[tokio::test]
async fn an_order_that_fails_while_the_certificate_is_made_is_gone() {
    let fake = Fake::start(false).await;
    let (credentials, key) = account(&fake.directory()).await;
    let names = names(&["shop.test"]);
    let why = json!({ "error": { "detail": "the signer is away" } });
    fake.say("/order/1", order_state(&fake, "ready", json!({})));
    fake.say("/finalize", order_state(&fake, "invalid", why));
    fake.say("/authorization", authorization(&fake, "valid", "valid"));
    let (directory, url) = (fake.directory(), fake.at("/order/1"));
    let http = ChallengeKind::Http01;
    let got = complete(&directory, &credentials, &url, &names, &key, http, PATIENCE).await;
    let error = got.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OrderGone, "{error}");
    assert!(error.to_string().contains("the signer is away"), "{error}");
}

#[tokio::test]
async fn an_order_names_what_it_replaces_unless_the_authority_minds() {
    let fake = Fake::start(true).await;
    let (credentials, _) = account(&fake.directory()).await;
    let names = names(&["shop.test"]);
    let old = LocalAuthority::found().unwrap().issue(&names, 90).unwrap().0;
    let made = order_state(&fake, "ready", json!({})).with("location", fake.at("/order/1"));
    let replaced = Answer::problem(409, "alreadyReplaced", "it was replaced");
    fake.say_in_turn("/order", vec![replaced, made]);
    fake.say("/authorization", authorization(&fake, "valid", "valid"));
    let ordered = order(&fake.directory(), &credentials, &names, Some(&old)).await.unwrap();
    assert_eq!((ordered.url, ordered.challenges), (fake.at("/order/1"), Vec::new()));
    let asked = fake.asked("/order");
    assert_eq!(asked.len(), 2);
    assert!(asked[0]["replaces"].as_str().unwrap().contains('.'), "{:?}", asked[0]);
    assert_eq!(asked[1].get("replaces"), None);
}

#[tokio::test]
async fn a_limit_is_not_met_twice_in_one_step() {
    let fake = Fake::start(true).await;
    let (credentials, _) = account(&fake.directory()).await;
    let names = names(&["shop.test"]);
    let old = LocalAuthority::found().unwrap().issue(&names, 90).unwrap().0;
    fake.say("/order", Answer::problem(429, "rateLimited", "too many"));
    let error = order(&fake.directory(), &credentials, &names, Some(&old)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited { retry_after: None });
    assert_eq!(fake.asked("/order").len(), 1);
}

/// The certificate of RFC 9773, appendix A, and how section 4.1 identifies it.
const RFC_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt
cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS
BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu
7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf
qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B
yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb
+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK
-----END CERTIFICATE-----
";
const RFC_PATH: &str = "/renewal/aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE";

fn window(start: &str, end: &str) -> Answer {
    Answer::json(200, json!({ "suggestedWindow": { "start": start, "end": end } }))
}

#[tokio::test]
async fn the_time_to_renew_is_read() {
    let fake = Fake::start(true).await;
    let (start, end) = ("2025-01-02T04:00:00Z", "2025-01-03T04:00:00.5Z");
    let (minute, hour, day) = (60_000, 3_600_000, 86_400_000);
    for (said, expected) in
        [(Some("21600"), 6 * hour), (None, 6 * hour), (Some("1"), minute), (Some("999999"), day)]
    {
        let answer = window(start, end);
        let answer = match said {
            Some(seconds) => answer.with("retry-after", seconds),
            None => answer,
        };
        fake.say(RFC_PATH, answer);
        let got = renewal(&fake.directory(), RFC_CERTIFICATE).await.unwrap().unwrap();
        assert_eq!((got.start_ms, got.end_ms), (1_735_790_400_000, 1_735_876_800_500));
        assert_eq!(got.look_again_ms, expected);
    }
}

#[tokio::test]
async fn a_certificate_that_the_authority_does_not_know_has_no_window() {
    let fake = Fake::start(true).await;
    assert_eq!(renewal(&fake.directory(), RFC_CERTIFICATE).await.unwrap(), None);
    assert_eq!(renewal(&fake.directory(), "no certificate").await.unwrap(), None);
}

#[tokio::test]
async fn a_window_that_ends_before_it_starts_is_none() {
    let fake = Fake::start(true).await;
    fake.say(RFC_PATH, window("2025-01-03T04:00:00Z", "2025-01-02T04:00:00Z"));
    let error = renewal(&fake.directory(), RFC_CERTIFICATE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_bad_nonce_is_no_error_until_there_is_nothing_else() {
    let fake = Fake::start(false).await;
    let bad = Answer::problem(400, "badNonce", "used up");
    let good = Answer::json(201, json!({ "status": "valid" }));
    let good = good.with("location", fake.at("/account/1"));
    let mut answers = vec![bad.clone(); 11];
    answers.push(good);
    fake.say_in_turn("/account", answers);
    register(&fake.directory(), None).await.unwrap();
    assert_eq!(fake.asked("/account").len(), 12);
    fake.say("/account", bad);
    let error = register(&fake.directory(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert_eq!(fake.asked("/account").len(), 24);
}

/// It need only compile: a runtime with several threads takes no other futures.
#[test]
fn steps_can_be_spawned() {
    fn send<T: Send>(_: &T) {}
    let fake = mill_acme::Directory { url: String::new(), root: None };
    let credentials = mill_acme::Credentials::from_text("");
    let http = ChallengeKind::Http01;
    send(&register(&fake, None));
    send(&order(&fake, &credentials, &[], None));
    send(&complete(&fake, &credentials, "", &[], "", http, PATIENCE));
    send(&renewal(&fake, ""));
}
