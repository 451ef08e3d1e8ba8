//! What people read in `mill plan`: each file in `plans` is a cluster and a config, each snapshot
//! what a deploy of the one to the other would do.
//!
//! A cluster is brought to its state by the commands that a real one would have committed.

#![allow(clippy::unwrap_used, reason = "a case that is not well formed fails its test")]

#[path = "plans/play.rs"]
mod play;
#[path = "plans/stage.rs"]
mod stage;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use mill_core::cluster::Cluster;
use mill_core::cluster::deploy::DeployState;
use mill_core::config::supported;
use mill_core::plan::{self, Action, Plan, SlotStep};
use mill_core::rng::Rng;
use play::Play;
use stage::{Case, Order, Stage};

fn read(path: &Path) -> Case {
    let text = fs::read_to_string(path).unwrap();
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a person is told: why it cannot be deployed, or the plan.
fn told(case: &Case) -> String {
    let stage = Stage::set(case, Order::Ascending);
    let problems = plan::check(&stage.cluster, &stage.wanted);
    if !problems.is_empty() {
        return format!("this config cannot be deployed here:\n{}\n", problems.join("\n"));
    }
    let plan = plan::plan(&stage.cluster, &stage.wanted);
    let mut told = plan.to_string();
    if case.json {
        write!(told, "\n{}\n", serde_json::to_string_pretty(&plan).unwrap()).unwrap();
    }
    told
}

fn each_case(check: impl Fn(&Path)) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("plans/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::glob!("plans/*.toml", |path| check(path)));
}

#[test]
fn each_plan_says_what_happens_where_and_why() {
    each_case(|path| insta::assert_snapshot!(told(&read(path))));
}

#[test]
fn a_plan_survives_its_journey_as_json() {
    each_case(|path| {
        let stage = Stage::set(&read(path), Order::Ascending);
        let plan = plan::plan(&stage.cluster, &stage.wanted);
        let written = serde_json::to_string(&plan).unwrap();
        let arrived: Plan = serde_json::from_str(&written).unwrap();
        assert_eq!(arrived, plan);
        assert_eq!(arrived.fingerprint(), plan.fingerprint());
    });
}

#[test]
fn a_plan_does_not_depend_on_the_order_in_which_nodes_registered() {
    each_case(|path| {
        let case = read(path);
        let [first, second] = [Order::Ascending, Order::Shuffled].map(|order| {
            let stage = Stage::set(&case, order);
            serde_json::to_string(&plan::plan(&stage.cluster, &stage.wanted)).unwrap()
        });
        assert_eq!(first, second, "{}", path.display());
    });
}

#[test]
fn a_deploy_that_was_planned_leaves_nothing_to_do() {
    each_case(|path| {
        let case = read(path);
        let mut stage = Stage::set(&case, Order::Ascending);
        let plan = plan::plan(&stage.cluster, &stage.wanted);
        let deployable = plan::check(&stage.cluster, &stage.wanted).is_empty()
            && plan.behind.is_none()
            && !stage::has_unplaced(&plan);
        if deployable && !plan.is_empty() {
            let wanted = stage.wanted.clone();
            stage.deploy(&wanted);
            let again = plan::plan(&stage.cluster, &wanted);
            assert!(again.is_empty(), "{}: left to do:\n{again}", path.display());
        }
    });
}

/// Where each slot of a plan is in the end, as far as that differs from what it said.
fn surprises(plan: &Plan, cluster: &Cluster) -> Vec<String> {
    let mut surprises = Vec::new();
    let moving = plan.services.iter().filter(|planned| planned.action != Action::Keep);
    for planned in moving.flat_map(|planned| &planned.slots) {
        let wanted = cluster.allocs_of(&planned.slot.service).filter(|(_, a)| a.is_wanted());
        let there: Vec<&str> = wanted
            .filter(|(_, alloc)| alloc.slot == planned.slot && cluster.is_up(alloc.node))
            .map(|(_, alloc)| cluster.nodes[&alloc.node].name.as_str())
            .collect();
        let said = match &planned.step {
            SlotStep::Keep { node, .. } | SlotStep::Create { node, .. } => vec![node.as_str()],
            SlotStep::Replace { to, .. } => vec![to.as_str()],
            SlotStep::Stop { .. } | SlotStep::Waits { .. } | SlotStep::Unplaced { .. } => vec![],
        };
        if there != said {
            surprises.push(format!("{}: {said:?} was said, it is {there:?}", planned.slot));
        }
    }
    surprises
}

#[test]
fn a_deploy_does_what_its_plan_said_and_goes_back_if_a_slot_has_no_place() {
    each_case(|path| {
        let case = read(path);
        let stage = Stage::set(&case, Order::Ascending);
        let deployable = plan::check(&stage.cluster, &stage.wanted).is_empty()
            && supported::unsupported(&stage.wanted).is_empty()
            && stage.cluster.running_deploy().is_none();
        let Some(mut play) = Play::start(&stage.cluster).filter(|_| deployable) else { return };
        let Some((number, plan)) = play::started(play.deploy(&stage.wanted)) else { return };
        let ended = |play: &Play| play.cluster().deploys[&number].state.is_end();
        play.until("the deploy ends", ended);
        let state = &play.cluster().deploys[&number].state;
        if stage::has_unplaced(&plan) {
            let back = matches!(state, DeployState::RolledBack { .. });
            assert!(back, "{}: {state:?}\n{plan}", path.display());
        } else {
            assert_eq!(*state, DeployState::Succeeded, "{}\n{plan}", path.display());
            let surprises = surprises(&plan, play.cluster());
            assert!(surprises.is_empty(), "{}\n{plan}{surprises:#?}", path.display());
        }
    });
}

/// A small cluster and two configs, different for each seed.
fn generated(seed: u64) -> String {
    let mut rng = Rng::new(seed);
    let mut text = String::from("nodes = [\n");
    for node in 0..=rng.below(4) {
        let (memory, zone) = (1 + rng.below(3), ["a", "b"][usize::from(rng.below(2) == 1)]);
        let labels = format!("labels = {{ zone = \"{zone}\" }}");
        writeln!(text, "{{ name = \"n{node}\", memory = \"{memory}GiB\", {labels} }},").unwrap();
    }
    let services = 1 + rng.below(3);
    let keeps_order: Vec<u64> = (0..services).map(|_| rng.below(8)).collect();
    let mut config = |changed: bool| {
        let mut config = String::new();
        for (service, shape) in keeps_order.iter().enumerate() {
            if changed && rng.below(8) == 0 {
                continue;
            }
            let (image, replicas) = (1 + rng.below(2), rng.below(4));
            let memory = [128, 256, 512][usize::try_from(rng.below(3)).unwrap()];
            let parallel = 1 + rng.below(2);
            let canary = if changed && replicas > 1 { rng.below(2) } else { 0 };
            let order = if *shape % 4 == 0 { "stop-first" } else { "start-first" };
            let port = if *shape == 1 { "fixed_port = true" } else { "" };
            let spread = if *shape == 2 { "place = { spread = \"zone\" }" } else { "" };
            writeln!(
                config,
                "[service.s{service}]\nimage = \"shop/s:{image}\"\nport = {}\n{port}\n{spread}\n\
                 replicas = {replicas}\nmemory = \"{memory}MiB\"\n\
                 update = {{ order = \"{order}\", parallel = {parallel}, canary = {canary} }}",
                8000 + service
            )
            .unwrap();
        }
        config
    };
    let (running, wanted) = (config(false), config(true));
    write!(text, "]\nrunning = ['''\n{running}''']\nwanted = '''\n{wanted}'''\n").unwrap();
    text
}

/// Of a thousand generated deploys, those whose end a plan may misjudge, and those in which a slot
/// may end elsewhere: where services race for the same room, who comes first is not in a plan.
const MISJUDGED_MAX: usize = 3;
const ELSEWHERE_MAX: usize = 8;

#[test]
fn plans_of_generated_clusters_come_true_but_for_a_few_races() {
    let (mut deploys, mut misjudged, mut elsewhere) = (0, Vec::new(), Vec::new());
    for seed in 0..1000 {
        let case: Case = toml::from_str(&generated(seed)).unwrap();
        let Some(stage) = Stage::try_set(&case, Order::Ascending) else { continue };
        let mut play = Play::start(&stage.cluster).unwrap();
        let Some((number, plan)) = play::started(play.deploy(&stage.wanted)) else { continue };
        play.until("the deploy ends", |play| play.cluster().deploys[&number].state.is_end());
        deploys += 1;
        let succeeded = play.cluster().deploys[&number].state == DeployState::Succeeded;
        if succeeded == stage::has_unplaced(&plan) {
            misjudged.push(seed);
        } else if succeeded && !surprises(&plan, play.cluster()).is_empty() {
            elsewhere.push(seed);
        }
    }
    assert!(deploys > 800, "only {deploys} of the clusters could be set up");
    assert!(misjudged.len() <= MISJUDGED_MAX, "misjudged: {misjudged:?}");
    assert!(elsewhere.len() <= ELSEWHERE_MAX, "elsewhere: {elsewhere:?}");
}
