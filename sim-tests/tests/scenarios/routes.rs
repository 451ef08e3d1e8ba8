//! Where requests from outside go while deploys move hosts from one service to another.

use mill_core::api::{Answer, Request};
use mill_core::cluster::deploy::DeployState;
use mill_core::units::Millis;
use mill_runtime_sim::World;
use mill_runtime_sim::models::registry::{Behaviour, Crash};
use mill_sim_tests::Scenario;

use crate::WEB;

const HOST: &str = "[[service.web.route]]\nhost = \"shop.example.com\"\n";

fn config(parts: &[&str]) -> String {
    parts.concat()
}

fn api(image: &str) -> String {
    WEB.replace("service.web", "service.api").replace("web:1", image)
}

/// Which service answers for a host, with its healthy replicas.
fn answers(world: &World, host: &str) -> Option<(String, usize)> {
    let cluster = world.cluster();
    let route = cluster.routes().into_iter().find(|r| r.spec.accept.sentence() == host)?;
    let tables = mill_core::net::Tables::of(cluster);
    let replicas = tables.services[&route.service].replicas().count();
    Some((route.service.to_string(), replicas))
}

#[test]
fn a_host_moves_to_a_new_service_once_that_is_there() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    let slow = Behaviour { ready_after: Some(Millis::secs(20)), ..Behaviour::default() };
    scenario.image("api:1", slow);
    scenario.run(&config(&[WEB, HOST]));
    assert_eq!(answers(&scenario.world, "shop.example.com/"), Some(("web".to_owned(), 1)));
    let moved = HOST.replace("service.web", "service.api");
    let number = scenario.start(&config(&[&api("api:1"), &moved]));
    let mut owners = Vec::new();
    while !scenario.world.cluster().deploys[&number].state.is_end() {
        scenario.world.step();
        let (owner, replicas) = answers(&scenario.world, "shop.example.com/").expect("routed");
        assert!(replicas > 0, "{owner} has no replica\n{}", scenario.story());
        if owners.last() != Some(&owner) {
            owners.push(owner);
        }
    }
    assert_eq!(owners, ["web", "api"]);
    let Ok(Answer::Routes(view)) = scenario.ask(Request::Routes { stale: false }) else {
        panic!("the routes are shown")
    };
    assert_eq!((view.routes.len(), view.routes[0].healthy), (1, 1));
}

#[test]
fn a_deploy_that_goes_back_has_moved_no_host() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.image("api:1", Behaviour { crash: Crash::Always(Millis(1)), ..Behaviour::default() });
    scenario.run(&config(&[WEB, HOST]));
    let moved = HOST.replace("service.web", "service.api");
    let state = scenario.deploy(&config(&[WEB, &api("api:1"), &moved]));
    assert!(matches!(state, DeployState::RolledBack { .. }), "{state:?}");
    assert_eq!(answers(&scenario.world, "shop.example.com/"), Some(("web".to_owned(), 1)));
}

#[test]
fn what_another_project_routes_or_owns_is_refused() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1", "api:1"]);
    scenario.run(&config(&["project = \"one\"\n", WEB, HOST]));
    let refused = |scenario: &mut Scenario, parts: &[&str]| {
        let text = config(&[&["project = \"two\"\n", &api("api:1")], parts].concat());
        let project = Box::new(mill_sim_tests::project(&text));
        scenario.refusal(Request::Plan { project }).details.join("; ")
    };
    let moved = HOST.replace("service.web", "service.api");
    let why = refused(&mut scenario, &[&moved]);
    assert!(why.contains("is routed to `web` of another project"), "{why}");
    let why = refused(&mut scenario, &["[[service.api.route]]\nlisten = 20100\n"]);
    assert!(why.contains("which node m1 gives to containers (20000 to 20199)"), "{why}");
    let fixed = api("api:1").replace("8080", "80\nfixed_port = true");
    let text = config(&["project = \"two\"\n", &fixed]);
    let project = Box::new(mill_sim_tests::project(&text));
    let why = scenario.refusal(Request::Plan { project }).details.join("; ");
    assert!(why.contains("`api` owns port 80 of its node"), "{why}");
}
