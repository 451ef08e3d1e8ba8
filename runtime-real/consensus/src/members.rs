//! Who votes: founding, changing the members, handing the lead on.
//!
//! A change goes through openraft's joint consensus, so no moment of it has two majorities. A new
//! voter is a learner first and gets its vote when it has the log. Every step is the leader's, and
//! may be repeated: what is already so is left alone. Who should be a member is decided elsewhere.
//! Tested in `tests/many.rs`.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::impls::EmptyNode;
use openraft_rt::{AsyncRuntime, WatchReceiver};

use super::error::ConsensusError;
use super::handle::Consensus;
use super::types::{LogId, Types};

/// Why the members were not changed as asked. The change may have been made in part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another node leads, or none does.
    #[error(
        "this node does not lead{}: ask the leader",
        leader.map(|id| format!(", node {id} does")).unwrap_or_default()
    )]
    NotLeader {
        /// The leader, if known.
        leader: Option<u64>,
    },
    /// A change is under way, or the leader is too new to make one.
    #[error("the members cannot be changed now: {reason}; try again")]
    Busy {
        /// What stands in the way.
        reason: String,
    },
    /// The change cannot be made.
    #[error("the members cannot be changed: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// It may or may not have been made.
    #[error("it is not known whether the members were changed: {reason}")]
    Unknown {
        /// Why that is not known.
        reason: String,
    },
}

impl<R: AsyncRuntime> Consensus<R> {
    /// Founds a cluster whose only voter is this node. Does nothing if the node is in one already,
    /// so it is safe to repeat.
    ///
    /// # Errors
    /// When consensus has stopped.
    pub async fn initialize_single(&self) -> Result<(), ConsensusError> {
        match self.raft.initialize(BTreeSet::from([self.node])).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                unreachable!("the node itself is the only member: {error}")
            }
            Err(RaftError::Fatal(fatal)) => {
                Err(ConsensusError::Stopped { reason: self.reason(&fatal) })
            }
        }
    }

    /// Makes these the voters and these the learners, and nobody else a member.
    ///
    /// New members become learners; new voters get their vote when they have the log so far. It
    /// waits for them and for majorities as long as that takes, so callers bound it; to stop
    /// waiting is to not know. A leader that is no voter afterwards steps down soon.
    ///
    /// # Errors
    /// When this node does not lead, when a change is under way, and when it is not known what
    /// came of it. What was done by then stays: asking again goes on from there.
    pub async fn change_members(
        &self,
        voters: BTreeSet<u64>,
        learners: BTreeSet<u64>,
    ) -> Result<(), ChangeError> {
        let all: BTreeSet<u64> = voters.union(&learners).copied().collect();
        let (before, is_joint) = (self.status(), self.is_joint());
        let known: BTreeSet<u64> = before.voters.union(&before.learners).copied().collect();
        let new: BTreeMap<u64, EmptyNode> =
            all.difference(&known).map(|node| (*node, EmptyNode {})).collect();
        if !new.is_empty() {
            let added = self.change(ChangeMembers::AddNodes(new), true).await?;
            for node in voters.difference(&before.voters) {
                self.has_log(*node, added).await;
            }
        }
        let unwanted: BTreeSet<u64> = before.learners.difference(&all).copied().collect();
        if is_joint || voters != before.voters || !unwanted.is_empty() {
            let stays =
                before.voters.iter().any(|voter| !voters.contains(voter) && all.contains(voter));
            let changes = ChangeMembers::Batch(vec![
                ChangeMembers::ReplaceAllVoters(voters.clone()),
                ChangeMembers::RemoveNodes(unwanted),
            ]);
            self.change(changes, stays).await?;
        }
        // Voters that went beside others that stay as learners.
        let left = self.status();
        let unwanted: BTreeSet<u64> = left.learners.difference(&all).copied().collect();
        if !unwanted.is_empty() {
            self.change(ChangeMembers::RemoveNodes(unwanted), true).await?;
        }
        Ok(())
    }

    /// Asks the node to stand for election at once. It must be a voter that has the whole log;
    /// otherwise, or when it does not answer, this node goes on leading. Nothing happens where
    /// this node does not lead.
    pub async fn transfer_lead(&self, to: u64) {
        if let Err(error) = self.raft.trigger().transfer_leader(to).await {
            tracing::debug!(to, %error, "the lead was not handed on");
        }
    }

    /// Whether a change was left between its two steps, by a leader that was lost.
    fn is_joint(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_joint_config().len() > 1
    }

    async fn change(
        &self,
        changes: ChangeMembers<u64, EmptyNode>,
        retain: bool,
    ) -> Result<LogId, ChangeError> {
        match self.raft.change_membership(changes, retain).await {
            Ok(response) => Ok(response.log_id),
            Err(RaftError::APIError(error)) => Err(change_error(error)),
            Err(RaftError::Fatal(fatal)) => {
                Err(ChangeError::Unknown { reason: self.reason(&fatal) })
            }
        }
    }

    /// Waits until the node has the log up to there, or this node no longer leads.
    async fn has_log(&self, node: u64, upto: LogId) {
        let mut metrics = self.raft.metrics();
        loop {
            let waits = {
                let metrics = metrics.borrow_and_update();
                metrics.running_state.is_ok()
                    && metrics
                        .replication
                        .as_ref()
                        .is_some_and(|progress| progress.get(&node).copied().flatten() < Some(upto))
            };
            if !waits || metrics.changed().await.is_err() {
                return;
            }
        }
    }
}

/// openraft's reasons, sorted by what a caller can do about them.
fn change_error<R: AsyncRuntime>(error: ClientWriteError<Types<R>>) -> ChangeError {
    use openraft::errors::ChangeMembershipError as Change;
    let reason = error.to_string();
    match error {
        ClientWriteError::ForwardToLeader(to) => ChangeError::NotLeader { leader: to.leader_id },
        ClientWriteError::LogEntryDiscarded(_) => ChangeError::Unknown { reason },
        ClientWriteError::PreconditionFailed(_) => ChangeError::Busy { reason },
        ClientWriteError::ChangeMembershipError(change) => match change {
            Change::InProgress(_) | Change::UncommittedLeaderLog(_) => ChangeError::Busy { reason },
            Change::EmptyMembership(_)
            | Change::LearnerNotFound(_)
            | Change::UnsupportedMembershipTransition(_)
            | Change::NodeMetadataChanged(_) => ChangeError::Refused { reason },
        },
    }
}
