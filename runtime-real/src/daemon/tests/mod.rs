//! Tier 3: what nodes say to each other, over turmoil's network while it loses, lags and is cut.
//!
//! Real are the nodes, joining, forwarding, the answers to other nodes' calls, HTTP/2 and TLS;
//! simulated are time and TCP. Turmoil's TCP sends nothing twice: what is lost on a link breaks the
//! connections over it, which is harsher than packets that are lost on a real one. Inside the crate
//! so that nothing has to be public for this.
//! - `stage`: the machines, their network and what is written down
//! - `machine`: one of them, and the loop that drives its node
//! - `log`: the replicated log, which follows a script

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod forwarding;
mod joining;
mod log;
mod machine;
mod pieces;
mod stage;

use std::process::Command;
use std::time::Duration;

use mill_core::api::{Answer, Request};
use mill_core::cluster::admission::Roles;
use mill_core::name::NodeId;
use tokio::time::sleep;

use self::machine::Machine;
use self::stage::{PORT, Stage, name_of};
use super::{Invitation, TokenWish};
use crate::token::JoinToken;

/// Between two tries of a machine to join.
const TRY_PAUSE: Duration = Duration::from_millis(300);
/// Runs containers, and does not get the authority.
const SECONDARY: Roles = Roles { primary: false, secondary: true };

/// Seeds of a run of many, from 0: a few, or as many as `make wire WIRE_SEEDS=N` says.
fn seeds() -> u64 {
    std::env::var("MILL_WIRE_SEEDS").map_or(6, |seeds| seeds.parse().unwrap())
}

fn invitation(token: &JoinToken, through: u64) -> Invitation {
    let address = format!("{}:{PORT}", name_of(through));
    let roles = Some(SECONDARY);
    Invitation { address, token: token.clone(), roles, labels: Default::default() }
}

/// A machine asks until it is a node.
async fn join(machine: Machine, invitation: Invitation) -> NodeId {
    loop {
        match machine.join(&invitation).await {
            Ok(node) => {
                machine.says(&format!("is {node}"));
                return node;
            }
            Err(error) => machine.says(&format!("does not join: {error}")),
        }
        sleep(TRY_PAUSE).await;
    }
}

/// A cluster that the first machine began and leads, and that others joined through it and have
/// the state of.
fn cluster(seed: u64, machines: u64, joined: u64) -> (Stage, JoinToken) {
    let mut stage = Stage::new(seed, machines);
    let token = stage.on(1, |machine| async move {
        machine.found().await;
        let wish = TokenWish { roles: Roles::default(), lasts: None, once: false };
        machine.create_token(wish).await.unwrap()
    });
    for number in 2..=joined {
        let invitation = invitation(&token, 1);
        let node = stage.on(number, |machine| join(machine, invitation));
        assert_eq!(node, NodeId(number));
        stage.until(&format!("{} has the state", name_of(number)));
    }
    (stage, token)
}

/// How many nodes there are, as the leader has it.
fn nodes(stage: &mut Stage) -> usize {
    let status = Request::Status { stale: false };
    let asked = stage.on(1, |machine| async move { machine.ask(status).await });
    let Ok(Answer::Status(status)) = asked else { panic!("{asked:?}") };
    status.nodes.len()
}

/// Set for the processes that [`equal_seeds_are_answered_equally_in_any_process`] starts.
const SEED: &str = "MILL_TEST_WIRE_SEED";

#[test]
fn equal_seeds_are_answered_equally_in_any_process() {
    if let Ok(seed) = std::env::var(SEED) {
        let seed = seed.parse().unwrap();
        let told = [joining::through_a_bad_link(seed), forwarding::while_links_come_and_go(seed)];
        told.concat().iter().for_each(|line| println!("\ntrace {line}"));
        return;
    }
    let run = |seed: u64| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = "daemon::tests::equal_seeds_are_answered_equally_in_any_process";
        command.args(["--exact", name, "--nocapture"]).env(SEED, seed.to_string());
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let lines = said.lines().filter_map(|line| line.strip_prefix("trace "));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        assert!(lines.len() > 20, "seed {seed} has hardly a trace: {said}");
        lines
    };
    let traces = [100, 101].map(|seed| {
        let trace = run(seed);
        assert_eq!(trace, run(seed), "seed {seed}");
        trace
    });
    assert_ne!(traces[0], traces[1], "each seed has a trace of its own");
}
