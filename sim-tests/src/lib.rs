//! A language for scenarios: a cluster under control, told as one would tell it to a colleague.
//!
//! A [`Scenario`] is a simulated world in which nothing goes wrong by itself. It parses real
//! configs, waits for named conditions and never for a time that means nothing, and fails with the
//! last transitions when an invariant does not hold. Scenarios are in `tests/scenarios`, plans in
//! `tests/plans`, many seeds in `tests/swarm.rs`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use mill_core::api::{Answer, ApiError, Outcome, Request};
use mill_core::cluster::alloc::{Alloc, Phase};
use mill_core::cluster::deploy::DeployState;
use mill_core::config::model::Project;
use mill_core::config::{Source, parse};
use mill_core::name::{AllocId, Name, NodeId};
use mill_core::units::Millis;
use mill_runtime_sim::models::engine::Container;
use mill_runtime_sim::models::registry::Behaviour;
use mill_runtime_sim::{Line, Params, World};

/// A condition that does not hold by then fails its scenario.
const PATIENCE: Millis = Millis::mins(30);

/// Lines of a trace, as they come.
pub type Lines = Rc<RefCell<Vec<String>>>;

/// A cluster under a test's control.
pub struct Scenario {
    /// The world, for what this language has no words for.
    pub world: World,
}

impl Scenario {
    /// A cluster of that many nodes that has a leader and knows all of them.
    pub fn nodes(count: u64) -> Scenario {
        Scenario::with(Params::calm(1, count))
    }

    /// The same with other parameters.
    pub fn with(params: Params) -> Scenario {
        Scenario::of(params.nodes, World::new(params))
    }

    /// The same, and every line of its trace.
    pub fn traced(params: Params) -> (Scenario, Lines) {
        let lines = Lines::default();
        let heard = lines.clone();
        let listener: Line = Box::new(move |line| heard.borrow_mut().push(line.to_owned()));
        (Scenario::of(params.nodes, World::traced(params, Some(listener))), lines)
    }

    fn of(count: u64, world: World) -> Scenario {
        let mut scenario = Scenario { world };
        scenario.until("every node is up", |world| {
            world.leader().is_some() && (1..=count).all(|id| world.cluster().is_up(NodeId(id)))
        });
        scenario
    }

    /// Builds an image; a tag that there is means the new one from now on.
    pub fn image(&mut self, reference: &str, behaviour: Behaviour) {
        self.world.registry().publish(reference, behaviour);
    }

    /// Builds good images.
    pub fn images(&mut self, references: &[&str]) {
        references.iter().for_each(|reference| self.image(reference, Behaviour::default()));
    }

    /// Asks the leader.
    pub fn ask(&mut self, request: Request) -> Outcome {
        self.until("somebody leads", |world| world.leader().is_some());
        let leader = self.world.leader().expect("waited for above");
        self.world.request(leader, request)
    }

    /// Starts a deploy of a config.
    pub fn start(&mut self, config: &str) -> u64 {
        match self.ask(Request::Deploy {
            project: Box::new(project(config)),
            expect: None,
            keep_going: false,
        }) {
            Ok(Answer::Started { number, .. }) => number,
            other => panic!("the deploy did not start: {other:?}"),
        }
    }

    /// Deploys a config, waits for the deploy's end, and says what that is.
    pub fn deploy(&mut self, config: &str) -> DeployState {
        let number = self.start(config);
        self.end_of(number)
    }

    /// Deploys a config that is expected to work, and waits until all is as it says.
    pub fn run(&mut self, config: &str) {
        let state = self.deploy(config);
        assert_eq!(state, DeployState::Succeeded, "{}", self.story());
        self.settled();
    }

    /// The end of a deploy.
    pub fn end_of(&mut self, number: u64) -> DeployState {
        let state = move |world: &World| world.cluster().deploys[&number].state.clone();
        self.until("the deploy ends", move |world| state(world).is_end());
        state(&self.world)
    }

    /// What a request was refused with.
    pub fn refusal(&mut self, request: Request) -> ApiError {
        self.ask(request).expect_err("it is refused")
    }

    /// Waits until everything is as it should be.
    pub fn settled(&mut self) {
        self.until("everything has settled", |world| world.pending().is_empty());
    }

    /// Waits for a condition; fails with the story so far if it does not come.
    pub fn until(&mut self, what: &str, holds: impl Fn(&World) -> bool) {
        let deadline = self.world.now() + PATIENCE;
        while !holds(&self.world) {
            assert!(self.world.violation().is_none(), "{}", self.story());
            let late = self.world.now() >= deadline;
            assert!(!late, "{what}: {:?}\n{}", self.world.pending(), self.story());
            self.world.step();
        }
    }

    /// Lets time pass.
    pub fn wait(&mut self, length: Millis) {
        self.world.run_for(length);
        assert!(self.world.violation().is_none(), "{}", self.story());
    }

    /// Allocs of a service that should run, by id.
    pub fn allocs(&self, service: &str) -> BTreeMap<AllocId, Alloc> {
        let name: Name = service.parse().expect("scenarios name services");
        let wanted = self.world.cluster().allocs_of(&name).filter(|(_, alloc)| alloc.is_wanted());
        wanted.map(|(id, alloc)| (id.clone(), alloc.clone())).collect()
    }

    /// The only alloc of a service that should run.
    pub fn alloc(&self, service: &str) -> (AllocId, Alloc) {
        let mut allocs = self.allocs(service);
        assert_eq!(allocs.len(), 1, "{service} has one alloc");
        allocs.pop_first().expect("counted above")
    }

    /// How many replicas of a service are healthy.
    pub fn healthy(&self, service: &str) -> usize {
        let phases = self.allocs(service).into_values().map(|alloc| alloc.status.phase);
        phases.filter(|phase| *phase == Phase::Healthy).count()
    }

    /// The container of an alloc, on the machine where that is.
    pub fn container(&self, alloc: &AllocId) -> Option<&Container> {
        let node = self.world.cluster().allocs.get(alloc)?.node;
        self.world.host(node).engine.container(alloc)
    }

    /// Every process on every machine, by alloc, as counted by its engine.
    pub fn processes(&self) -> BTreeMap<AllocId, u64> {
        let hosts = self.world.hosts();
        let containers = hosts.flat_map(|host| host.engine.containers());
        containers.map(|(id, container)| (id.clone(), container.started)).collect()
    }

    /// A violation if there is one, and the last transitions.
    pub fn story(&self) -> String {
        let violation = self.world.violation().map_or(String::new(), |v| format!("{v}\n"));
        format!("{violation}{}", self.world.recent().join("\n"))
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.world.violation().is_none(), "{}", self.story());
        }
    }
}

/// What a config means.
///
/// # Panics
/// If it is not valid.
pub fn project(config: &str) -> Project {
    let source = Source { name: "mill.toml".to_owned(), text: config.to_owned() };
    parse(&[source]).expect("scenarios deploy valid configs").project
}
