//! Certificates: ordered once routes want them, proven by every node, renewed in time, and never
//! asked for more often than an authority allows.

use std::sync::Arc;

use mill_core::api::view::CertificateSource;
use mill_core::api::{Answer, Request};
use mill_core::cluster::certificates::{Certificate, Imported, Issued};
use mill_core::name::NodeId;
use mill_core::sealed::Sealed;
use mill_core::time::Wall;
use mill_core::units::Millis;
use mill_runtime_sim::{Fault, Params, World};
use mill_sim_tests::Scenario;

use crate::{WEB, alone};

const HOST: &str = "[[service.web.route]]\nhost = \"shop.example.com\"\ntls = true\n";
const NAME: &str = "shop.example.com";

fn deployed(nodes: u64) -> Scenario {
    let mut scenario = Scenario::nodes(nodes);
    scenario.images(&["web:1"]);
    scenario.run(&[WEB, HOST].concat());
    scenario
}

fn known(world: &World) -> Certificate {
    world.cluster().certificates.ordered.get(NAME).cloned().unwrap_or_default()
}

fn issued(world: &World) -> Option<Arc<Issued>> {
    known(world).issued
}

fn has_one(scenario: &mut Scenario) {
    scenario.until("there is a certificate", |world| issued(world).is_some());
}

/// A fault for that long.
fn suffer(scenario: &mut Scenario, fault: Fault, length: Millis) {
    scenario.world.inject(fault, length);
}

#[test]
fn a_route_that_wants_a_certificate_gets_one() {
    let mut scenario = deployed(3);
    has_one(&mut scenario);
    scenario.settled();
    let Ok(Answer::Certificates(view)) = scenario.ask(Request::Certificates { stale: false })
    else {
        panic!("they are shown")
    };
    let [only] = view.certificates.as_slice() else { panic!("{view:?}") };
    assert_eq!(
        (only.names.as_slice(), only.source),
        (&[NAME.to_owned()][..], CertificateSource::Ordered)
    );
    assert!(only.not_after.is_some() && only.trouble.is_none() && !only.ordering);
    // Every node shows it.
    let leader = scenario.world.leader().expect("one leads");
    for host in scenario.world.hosts() {
        let state = host.daemon.as_ref().expect("it runs").cluster();
        let shown = mill_core::net::Tables::of(state).certificates;
        assert_eq!(shown.len(), 1, "{} (leader {leader})", host.id);
    }
    assert_eq!(scenario.world.authority().issued, 1);
}

#[test]
fn an_order_outlives_its_leader() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.start(&[WEB, HOST].concat());
    scenario.until("an order is open", |world| known(world).order.is_some());
    let leader = scenario.world.leader().expect("one leads");
    suffer(&mut scenario, Fault::PowerOff(leader), Millis::secs(30));
    scenario.until("another leads", |world| world.leader().is_some_and(|next| next != leader));
    has_one(&mut scenario);
    scenario.settled();
    let issued = scenario.world.authority().issued;
    assert!(issued <= 2, "{}", scenario.story());
}

#[test]
fn two_leaders_do_not_order_against_each_other() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.start(&[WEB, HOST].concat());
    scenario.until("an order is open", |world| known(world).order.is_some());
    let leader = scenario.world.leader().expect("one leads");
    // It goes on for a while in the belief that it leads.
    suffer(&mut scenario, alone(leader, 3), Millis::secs(20));
    has_one(&mut scenario);
    scenario.settled();
    scenario.wait(Millis::mins(5));
    let issued = scenario.world.authority().issued;
    assert_eq!(issued, 1, "{}", scenario.story());
}

#[test]
fn an_authority_that_does_not_answer_is_asked_less_and_less() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.world.authority().down = true;
    scenario.run(&[WEB, HOST].concat());
    scenario.wait(Millis::mins(90));
    let Ok(Answer::Certificates(view)) = scenario.ask(Request::Certificates { stale: false })
    else {
        panic!("they are shown")
    };
    let only = &view.certificates[0];
    assert_eq!(only.trouble.as_deref(), Some("the authority does not answer"));
    assert!((4..=5).contains(&only.failures), "{only:?}");
    scenario.world.authority().down = false;
    scenario.wait(Millis::mins(180));
    assert!(issued(&scenario.world).is_some(), "{}", scenario.story());
}

#[test]
fn a_name_that_cannot_be_proven_is_tried_the_other_way_and_within_limits() {
    let mut scenario = deployed(2);
    has_one(&mut scenario);
    // From now on one of two machines is away for good: the authority asks either.
    suffer(&mut scenario, Fault::PowerOff(NodeId(2)), Millis::mins(600));
    let other = HOST.replace("shop.", "other.");
    scenario.deploy(&[WEB, HOST, &other].concat());
    scenario.wait(Millis::mins(300));
    let ordered = &scenario.world.cluster().certificates.ordered;
    assert!(ordered["other.example.com"].issued.is_some(), "{}", scenario.story());
}

#[test]
fn a_lost_account_is_made_anew() {
    let mut scenario = deployed(1);
    has_one(&mut scenario);
    scenario.world.authority().forget_accounts();
    let renewed = scenario.ask(Request::RenewCertificate { name: NAME.to_owned() });
    assert_eq!(renewed, Ok(Answer::Done));
    let before = issued(&scenario.world);
    scenario.until("there is another", move |world| issued(world) != before);
}

#[test]
fn certificates_are_renewed_with_a_third_of_their_life_left() {
    let life = Millis::mins(60);
    let mut scenario = Scenario::with(Params { certificate_life: life, ..Params::calm(1, 3) });
    scenario.images(&["web:1"]);
    scenario.run(&[WEB, HOST].concat());
    has_one(&mut scenario);
    let first = issued(&scenario.world).expect("waited for above");
    scenario.wait(Millis::mins(38));
    assert_eq!(issued(&scenario.world).as_ref(), Some(&first));
    scenario.wait(Millis::mins(4));
    let second = issued(&scenario.world).expect("it stays");
    assert!(second.not_after > first.not_after);
    scenario.wait(Millis::mins(10 * 60));
    let issued = scenario.world.authority().issued;
    assert!((15..=17).contains(&issued), "{issued} in ten hours");
}

#[test]
fn a_clock_that_is_wrong_does_not_order_again_and_again() {
    let mut scenario = deployed(1);
    has_one(&mut scenario);
    // By this clock the certificate has ended long ago.
    let year: i64 = 365 * 24 * 60 * 60 * 1_000;
    suffer(&mut scenario, Fault::ClockJump(NodeId(1), year), Millis::mins(1));
    scenario.wait(Millis::mins(24 * 60));
    let issued = scenario.world.authority().issued;
    assert!(issued <= 2, "{issued} in a day");
}

#[test]
fn an_authority_that_revokes_is_asked_for_another() {
    let mut scenario = deployed(3);
    has_one(&mut scenario);
    scenario.wait(Millis::mins(48 * 60));
    assert_eq!(scenario.world.authority().issued, 1);
    scenario.world.authority().revokes = true;
    let before = issued(&scenario.world);
    scenario.until("there is another", move |world| issued(world) != before);
    scenario.world.authority().revokes = false;
}

#[test]
fn what_is_imported_wins_and_can_be_taken_back() {
    let mut scenario = deployed(1);
    has_one(&mut scenario);
    let issued = Issued {
        chain: "theirs".to_owned(),
        key: Sealed::new("theirs".to_owned()),
        not_before: Wall(0),
        not_after: Wall(u64::MAX),
        at: Wall(0),
        directory: None,
    };
    let names = vec!["*.example.com".to_owned()];
    let imported = Imported { names, issued: issued.into(), default: true };
    let done = scenario.ask(Request::ImportCertificate(Box::new(imported)));
    assert_eq!(done, Ok(Answer::Done));
    let shown = |world: &World| {
        let tables = mill_core::net::Tables::of(world.cluster());
        let chains = tables.certificates.iter().map(|shown| shown.issued.chain.clone());
        chains.collect::<Vec<_>>()
    };
    assert_eq!(shown(&scenario.world), ["theirs"]);
    let done = scenario.ask(Request::RemoveCertificate { name: "*.example.com".to_owned() });
    assert_eq!(done, Ok(Answer::Done));
    assert_eq!(shown(&scenario.world), ["certificate 1 for shop.example.com with key 1"]);
    let gone = scenario.refusal(Request::RemoveCertificate { name: NAME.to_owned() });
    assert!(gone.message.contains("no certificate was imported"), "{gone}");
}

#[test]
fn another_authority_takes_over() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.start(&[WEB, HOST].concat());
    let elsewhere = "[cluster]\nacme_directory = \"https://acme.example.com/directory\"\n";
    scenario.until("the deploy is over", |world| world.cluster().running_deploy().is_none());
    scenario.run(&[elsewhere, WEB, HOST].concat());
    let there = Some("https://acme.example.com/directory".to_owned());
    scenario.until("its certificate is there", move |world| {
        issued(world).is_some_and(|issued| issued.directory == there)
    });
    scenario.settled();
}

#[test]
fn a_person_ends_the_rest_of_a_failure_a_few_times_and_no_more() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    scenario.deploy(&[WEB, HOST].concat());
    has_one(&mut scenario);
    scenario.world.authority().down = true;
    let renew = || Request::RenewCertificate { name: NAME.to_owned() };
    let failures = |world: &World| known(world).failure.map_or(0, |failure| failure.count);
    for count in 1..=4 {
        assert_eq!(scenario.ask(renew()), Ok(Answer::Done), "{count}");
        scenario.until("it failed again", move |world| failures(world) >= count);
    }
    let refused = scenario.refusal(renew());
    assert!(refused.message.contains("it failed 4 times in a row"), "{refused}");
    let unknown = Request::RenewCertificate { name: "other.example.com".to_owned() };
    let unknown = scenario.refusal(unknown);
    assert!(unknown.message.contains("no route wants"), "{unknown}");
}

#[test]
fn settings_come_with_a_deploy_and_are_planned() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    let config = ["[cluster]\nacme_email = \"ops@example.com\"\n", WEB].concat();
    let project = Box::new(mill_sim_tests::project(&config));
    let Ok(Answer::Plan(plan)) = scenario.ask(Request::Plan { project }) else { panic!("a plan") };
    assert!(plan.to_string().contains("~ cluster: change\n    acme_email: set to ops@"), "{plan}");
    scenario.run(&config);
    let settings = &scenario.world.cluster().settings;
    assert_eq!(settings.acme_email.as_deref(), Some("ops@example.com"));
    let project = Box::new(mill_sim_tests::project(WEB));
    let Ok(Answer::Plan(plan)) = scenario.ask(Request::Plan { project }) else { panic!("a plan") };
    assert!(plan.is_empty(), "what is not written stays: {plan}");
}
