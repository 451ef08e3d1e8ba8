//! Known bugs, each behind a switch, so that the simulator can be held to finding them.
//!
//! Without the feature `mutants`, which nothing that ships turns on, [`is`] is a constant `false`:
//! the compiler drops every mutated branch, and the program is the one without this file. With it,
//! a test chooses one bug for its process. What finds each of them, and within how many seeds, is
//! in `sim-tests/tests/mutants.rs`; those of consensus are in its own crate.

/// A known bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// A decision is applied though what it serves was changed since it was made.
    IntentFenceDropped = 1,
    /// A deploy is begun though another runs, or took its number.
    StaleDeployAccepted,
    /// A deploy that goes back leaves its services at what they were to become.
    RollbackKeepsTheNew,
    /// The number of a removed node is given to the next.
    NodeNumberReused,
    /// Who proposed an entry applies something more than the others.
    ProposerAppliesMore,
    /// A snapshot does not carry how often the members changed.
    SnapshotLosesField,
    /// What is derived from the state is not derived again from a snapshot.
    SnapshotLosesIndex,
    /// A new leader calls a node down at once that it has not heard yet.
    NoWindowAfterElection,
    /// A leader that hears hardly anybody believes its ears.
    MassSilenceBelieved,
    /// Everything that was lost is placed at once.
    LostAllAtOnce,
    /// An update that stops first takes one replica too many.
    FloorOffByOne,
    /// What is on a node that drains is stopped before it is replaced.
    DrainStopsFirst,
    /// A node is given a vote that was not heard yet, or not for long.
    VoteToTheUnheard,
    /// More nodes are given a vote than may vote.
    DoublePromotion,
    /// Half of the voters count as a quorum.
    QuorumOffByOne,
    /// A service counts as settled though not all of it is healthy.
    SettledTooEarly,
    /// What a node says after a restart is taken for older than what it said before.
    RestartNotNoticed,
    /// A node takes one replica more than it has room for.
    CapacityOffByOne,
    /// The slot of one node is filled on another.
    PinnedIgnored,
    /// A node that comes and goes gets new replicas all the same.
    FlappingTrusted,
    /// A restarted daemon does not know its containers again.
    ReattachLost,
    /// A container that runs is not stopped though it is to go.
    StopForgotten,
    /// What failed is started again at once.
    RestartWithoutBackoff,
    /// A request whose fate is unknown is asked for again.
    ForwardedAgain,
    /// A leader answers without making sure that it leads.
    ReadUnconfirmed,
    /// A copy of the state always says that it is of this moment.
    StaleReadSaysNow,
    /// Going back to an earlier deploy keeps services that were new since.
    ReturnKeepsTheNew,
    /// Going back takes what an image means now for what it meant then.
    ReturnResolvesAnew,
    /// Replicas do not wait for the canaries.
    CanariesNotAwaited,
    /// Canaries are promoted before they were watched.
    PromotedTooEarly,
    /// Canaries are promoted that are not healthy.
    PromotedUnhealthy,
    /// What leaves the routes is released though nodes have not let go of it.
    ReleasedUnheard,
    /// What is to stop is stopped before it is released.
    StoppedUnreleased,
    /// What is asked to stop is not left the time to finish.
    DrainSkipped,
    /// A service moves before the task that it waits for has succeeded.
    GateNotAwaited,
    /// The run of a gate is begun again though it was.
    GateRunAgain,
    /// Nobody writes down that a moment of a schedule was served.
    DueServedTwice,
    /// More runs of a task are under way than may be.
    ConcurrencyIgnored,
    /// The runs of a lost node never end.
    LostRunForgotten,
    /// The runs of a lost node are executed again elsewhere.
    LostRunAgain,
    /// A run whose container has ended is started again.
    RunStartedAgain,
    /// A run may take as long as it likes.
    TimeoutIgnored,
    /// A service that failed in a deploy that keeps going stays on its way.
    FailedGoesOn,
    /// A port goes to another service while a member still takes it for the first one's.
    PortGivenAtOnce,
    /// What leaves stays in what requests are carried by.
    LeavesStayRouted,
    /// A deploy is done before every node sends requests to what it brought.
    DoneUnrouted,
    /// Routes change before what they lead to is there.
    RoutedTooEarly,
    /// An authority is told to look before every node answers it.
    ValidatedUnanswered,
    /// A certificate is ordered again as soon as a clock says that it is due.
    RenewedAtOnce,
    /// Nodes are given an address in the mesh that another has.
    MeshAddressTwice,
    /// What nodes say from outside the mesh is not taken in.
    GreetedUnheard,
    /// A node takes another key before all others can be told of it.
    KeyReplacedUnheard,
    /// A cluster moves into the mesh though not everybody has met everybody there.
    MeshUsedUnmet,
    /// Images that services run count as not needed.
    ImagesInUsePruned,
}

/// Whether that bug is there. Never, in what ships.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use self::chosen::choose;
#[cfg(feature = "mutants")]
pub(crate) use self::chosen::is;

#[cfg(feature = "mutants")]
mod chosen {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutant;

    /// The bug of this process; 0 is none.
    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// From now on this process has that bug, and no other.
    pub fn choose(mutant: Mutant) {
        CHOSEN.store(mutant as u8, Ordering::Relaxed);
    }

    pub(crate) fn is(mutant: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == mutant as u8
    }
}
