//! Deploys that were: going back to one, cancelling the one that runs, and the list of all.

use mill_core::api::{Answer, ApiError, ErrorCode, Request};
use mill_core::cluster::DEPLOYS_KEPT;
use mill_core::cluster::deploy::{DeployKind, DeployState};
use mill_core::cluster::past::RETURNS_KEPT;
use mill_core::container::Digest;
use mill_core::units::Millis;
use mill_runtime_sim::models::registry::Behaviour;
use mill_runtime_sim::{Fault, World};
use mill_sim_tests::Scenario;

use crate::WEB;

const DB: &str = "
[service.db]
image = \"db:1\"
port = 5432
[service.db.health]
path = \"/\"
";

fn one_node(images: &[&str]) -> Scenario {
    let mut scenario = Scenario::nodes(1);
    scenario.images(images);
    scenario
}

/// Goes back as a person does: looks at the plan, and agrees.
fn go_back(scenario: &mut Scenario, to: Option<u64>) -> Result<(u64, u64), ApiError> {
    let ask = |expect| Request::Rollback { project: None, to, expect };
    let Answer::Return { to: earlier, plan } = scenario.ask(ask(None))? else { panic!("a plan") };
    match scenario.ask(ask(Some(plan.fingerprint())))? {
        Answer::Started { number, plan: started } => {
            assert_eq!(started, plan);
            Ok((earlier, number))
        }
        other => panic!("{other:?}"),
    }
}

/// Goes back, and waits until all is as it was.
fn gone_back(scenario: &mut Scenario, to: Option<u64>) -> u64 {
    let (earlier, number) = go_back(scenario, to).expect("there is something to go back to");
    assert_eq!(scenario.end_of(number), DeployState::Succeeded, "{}", scenario.story());
    scenario.settled();
    let deploy = &scenario.world.cluster().deploys[&number];
    assert_eq!((deploy.kind, deploy.back_to), (DeployKind::Rollback, Some(earlier)));
    earlier
}

/// The bytes that a service of one replica runs.
fn runs(scenario: &Scenario, service: &str) -> (String, Digest) {
    let (id, _) = scenario.alloc(service);
    let image = &scenario.container(&id).expect("it runs").spec.image;
    (image.reference.clone(), image.digest.clone())
}

#[test]
fn a_project_goes_back_to_what_it_ran_before_its_last_successful_deploy() {
    let mut scenario = one_node(&["web:1", "web:2", "db:1"]);
    scenario.run(WEB);
    let before = runs(&scenario, "web");
    let services = scenario.world.cluster().services.clone();
    scenario.run(&format!("{}{DB}", WEB.replace("web:1", "web:2")));
    assert_eq!(gone_back(&mut scenario, None), 1);
    assert_eq!(runs(&scenario, "web"), before);
    let spec = |service: &mill_core::cluster::deploy::Service| {
        service.target().map(|(_, version)| (version.spec.clone(), version.image.clone()))
    };
    let now: Vec<_> = scenario.world.cluster().services.iter().map(|(n, s)| (n, spec(s))).collect();
    let then: Vec<_> = services.iter().map(|(n, s)| (n, spec(s))).collect();
    assert_eq!(now, then, "what was new is removed");
    let first = go_back(&mut scenario, None).expect_err("what was gone back from is not before it");
    assert_eq!(first.code, ErrorCode::NotFound, "{first}");
    gone_back(&mut scenario, Some(2));
    assert_eq!((runs(&scenario, "web").0.as_str(), scenario.healthy("db")), ("web:2", 1));
}

#[test]
fn going_back_twice_goes_further_back_and_past_what_changed_nothing() {
    let mut scenario = one_node(&["web:1", "web:2", "web:3"]);
    scenario.run(WEB);
    scenario.run(&WEB.replace("web:1", "web:2"));
    scenario.run(&WEB.replace("web:1", "web:3"));
    let restart = Request::Restart { service: "web".parse().expect("a name") };
    let Ok(Answer::Started { number, .. }) = scenario.ask(restart) else { panic!("it starts") };
    scenario.end_of(number);
    scenario.settled();
    assert_eq!(gone_back(&mut scenario, None), 2);
    assert_eq!(gone_back(&mut scenario, None), 1);
    let all = go_back(&mut scenario, None).expect_err("nothing was before it");
    assert!(all.message.contains("has no earlier successful deploy"), "{all}");
}

#[test]
fn what_one_project_can_go_back_to_outlives_the_many_deploys_of_another() {
    let mut scenario = one_node(&["web:1", "web:2", "db:1"]);
    scenario.run(WEB);
    scenario.run(&WEB.replace("web:1", "web:2"));
    scenario.run(&format!("project = \"data\"\n{DB}"));
    let service: mill_core::name::Name = "db".parse().expect("a name");
    for turn in 0..2 * DEPLOYS_KEPT {
        let replicas = u32::try_from(turn % 2).expect("small");
        let scale = Request::Scale { service: service.clone(), replicas };
        let Ok(Answer::Started { number, .. }) = scenario.ask(scale) else { panic!("it starts") };
        scenario.end_of(number);
    }
    assert!(scenario.world.cluster().deploys.len() <= 2 * DEPLOYS_KEPT);
    gone_back(&mut scenario, Some(1));
    assert_eq!(runs(&scenario, "web").0, "web:1");
}

#[test]
fn what_was_removed_is_there_again() {
    let mut scenario = one_node(&["web:1", "db:1"]);
    scenario.run(&format!("{WEB}{DB}"));
    scenario.run(WEB);
    assert_eq!(scenario.world.cluster().services.len(), 1);
    gone_back(&mut scenario, Some(1));
    assert_eq!((scenario.healthy("web"), scenario.healthy("db")), (1, 1));
}

#[test]
fn an_image_means_the_bytes_that_it_meant_then() {
    let mut scenario = one_node(&["web:1", "other:1"]);
    scenario.run(WEB);
    let first = runs(&scenario, "web");
    scenario.run(&WEB.replace("web:1", "other:1"));
    // The tag means something else by now, and is deployed like that.
    scenario.image("web:1", Behaviour::default());
    scenario.run(WEB);
    let third = runs(&scenario, "web");
    assert_ne!(third, first);
    gone_back(&mut scenario, Some(1));
    assert_eq!(runs(&scenario, "web"), first);
    gone_back(&mut scenario, Some(3));
    assert_eq!(runs(&scenario, "web"), third);
}

#[test]
fn going_back_is_planned_and_refused_like_any_deploy() {
    let mut scenario = one_node(&["web:1", "web:2", "web:3"]);
    let nothing = go_back(&mut scenario, None).expect_err("nothing was deployed");
    assert_eq!(nothing.code, ErrorCode::NotFound, "{nothing}");
    scenario.run(WEB);
    let first = go_back(&mut scenario, None).expect_err("there is nothing before it");
    assert!(first.message.contains("has no earlier successful deploy"), "{first}");
    let none = go_back(&mut scenario, Some(7)).expect_err("there is no such deploy");
    assert_eq!(none.code, ErrorCode::NotFound);
    scenario.image("web:bad", Behaviour { ready_after: None, ..Behaviour::default() });
    let bad = WEB.replace("web:1", "web:bad");
    assert!(matches!(scenario.deploy(&bad), DeployState::RolledBack { .. }));
    let failed = go_back(&mut scenario, Some(2)).expect_err("it failed");
    assert!(failed.message.contains("deploy #2 did not succeed"), "{failed}");
    scenario.run(&WEB.replace("web:1", "web:2"));
    let old = Request::Rollback { project: None, to: None, expect: Some("0".to_owned()) };
    assert_eq!(scenario.refusal(old).code, ErrorCode::PlanChanged);
    scenario.start(&WEB.replace("web:1", "web:3"));
    let busy = go_back(&mut scenario, None).expect_err("a deploy runs");
    assert_eq!(busy.code, ErrorCode::Conflict);
}

#[test]
fn whose_deploys_are_meant_must_be_said_where_there_are_several_projects() {
    let mut scenario = one_node(&["web:1", "web:2", "db:1"]);
    let db = format!("project = \"data\"\n{DB}");
    scenario.run(WEB);
    scenario.run(&db);
    scenario.run(&WEB.replace("web:1", "web:2"));
    let error = go_back(&mut scenario, None).expect_err("which project?");
    assert!(error.message.contains("data, main"), "{error}");
    gone_back(&mut scenario, Some(1));
    assert_eq!((scenario.healthy("db"), runs(&scenario, "web").0.as_str()), (1, "web:1"));
    let project = Some("data".parse().expect("a name"));
    let foreign = Request::Rollback { project, to: Some(1), expect: None };
    assert_eq!(scenario.refusal(foreign).code, ErrorCode::Invalid);
}

#[test]
fn a_deploy_that_is_cancelled_goes_back_as_if_it_had_failed() {
    let mut scenario = one_node(&["web:1", "web:2"]);
    scenario.run(WEB);
    let number = scenario.start(&WEB.replace("web:1", "web:2"));
    scenario
        .until("it rolls", |world| world.cluster().deploys[&number].state == DeployState::Rolling);
    assert_eq!(scenario.ask(Request::Cancel { number: None }), Ok(Answer::Done));
    assert_eq!(scenario.ask(Request::Cancel { number: Some(number) }), Ok(Answer::Done));
    let reason = "it was cancelled".to_owned();
    assert_eq!(scenario.end_of(number), DeployState::RolledBack { reason });
    scenario.settled();
    assert_eq!(runs(&scenario, "web").0, "web:1");
    let over = scenario.refusal(Request::Cancel { number: Some(number) });
    assert!(over.message.contains("has ended: went back"), "{over}");
    assert_eq!(scenario.refusal(Request::Cancel { number: None }).code, ErrorCode::Conflict);
}

#[test]
fn a_deploy_whose_images_are_still_looked_for_is_cancelled_at_once() {
    let mut scenario = one_node(&["web:1"]);
    scenario.world.inject(Fault::RegistryDown, Millis::mins(5));
    let number = scenario.start(WEB);
    assert_eq!(scenario.ask(Request::Cancel { number: None }), Ok(Answer::Done));
    let reason = "it was cancelled".to_owned();
    assert_eq!(scenario.world.cluster().deploys[&number].state, DeployState::RolledBack { reason });
    scenario.settled();
    assert!(scenario.world.cluster().services.is_empty());
}

#[test]
fn what_was_decided_before_a_deploy_was_cancelled_is_not_done_after_it() {
    // Found by seeds 0x6cc and 0xb9e: under the new version the old replica goes first, under the
    // one before it must not.
    let first = WEB.replace("[service.web]", "[service.web]\nreplicas = 2");
    let careless = "\n[service.web.update]\norder = \"stop-first\"\n";
    let then = first.replace("web:1", "web:2") + careless;
    let half_way = |world: &World| {
        let allocs = world.cluster().allocs.values();
        allocs.filter(|alloc| alloc.slot.index == 1 && !alloc.is_wanted()).count() == 1
    };
    let begun = || {
        let mut scenario = one_node(&["web:1", "web:2"]);
        scenario.run(&first);
        let number = scenario.start(&then);
        (scenario, number)
    };
    let (mut undisturbed, _) = begun();
    let since = undisturbed.world.now();
    undisturbed.until("the second goes", half_way);
    let goes = undisturbed.world.now().since(since);
    for before in 0..30 {
        let (mut scenario, number) = begun();
        scenario.wait(Millis(goes.0 - before));
        assert_eq!(scenario.ask(Request::Cancel { number: Some(number) }), Ok(Answer::Done));
        scenario.settled();
        assert_eq!(scenario.healthy("web"), 2);
    }
}

#[test]
fn what_the_last_successful_deploys_left_is_kept_and_no_more() {
    let mut scenario = one_node(&["web:1"]);
    for memory in 11..RETURNS_KEPT + 13 {
        scenario.run(&WEB.replace("port", &format!("memory = \"{memory}MiB\"\nport")));
    }
    let past = &scenario.world.cluster().past;
    assert_eq!(past.values().map(|versions| versions.len()).sum::<usize>(), RETURNS_KEPT);
    let Ok(Answer::Deploys(deploys)) = scenario.ask(Request::Deploys { stale: false }) else {
        panic!("a list")
    };
    let returnable = deploys.iter().filter(|deploy| deploy.returnable);
    let numbers: Vec<u64> = returnable.map(|deploy| deploy.number).collect();
    assert_eq!(numbers, (3..=12).rev().collect::<Vec<u64>>());
    let gone = go_back(&mut scenario, Some(1)).expect_err("it is not kept");
    assert!(gone.message.contains("last 10 successful deploys"), "{gone}");
}
