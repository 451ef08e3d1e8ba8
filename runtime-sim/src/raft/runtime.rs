//! openraft's async runtime on one simulated host: its clock, its generator, its disk's slowness.
//!
//! A [`HostContext`] is what a host's tasks share. It travels with them: whoever polls a task finds
//! the context of its host, and what a task spawns inherits it. Tasks and timers are the engine's;
//! the clock runs from an offset and faster or slower than the world's. Nothing here runs beside
//! anything else: a blocking call is made inline, after and before a drawn delay.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use mill_core::rng::Rng;
use openraft_rt::{AsyncRuntime, Instant as _, OptionalSend};

use super::engine::{Engine, World};
use super::params::RaftParams;
use super::record::Record;
use super::{sync, watch};

const MILLION: i128 = 1_000_000;

/// Before and after each commit while a disk is slow, in microseconds: lowest and highest.
const SLOW_DISK: (u64, u64) = (20_000, 200_000);

/// What all tasks of one start of one host share.
#[derive(Debug)]
pub(super) struct HostContext {
    /// The clock's reading when the world begins, in nanoseconds.
    pub(super) offset: i64,
    /// How much faster than the world the clock runs, in millionths; negative is slower.
    pub(super) drift: i64,
    /// Before and after each blocking call, in microseconds: lowest and highest.
    pub(super) disk: (u64, u64),
    /// Datagrams that it loses, of a thousand.
    pub(super) loss: u64,
    pub(super) conditions: Arc<Conditions>,
    pub(super) rng: Mutex<Rng>,
    pub(super) record: Record,
}

/// What is worse about a machine than it is at best, for as long as its driver says.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// Datagrams that it loses besides, of a thousand.
    extra_loss: AtomicU64,
    has_slow_disk: AtomicBool,
}

impl Conditions {
    pub(super) fn set(&self, extra_loss: u64, has_slow_disk: bool) {
        self.extra_loss.store(extra_loss, Ordering::Relaxed);
        self.has_slow_disk.store(has_slow_disk, Ordering::Relaxed);
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<HostContext>>> = const { RefCell::new(None) };
}

fn current() -> Option<Arc<HostContext>> {
    CURRENT.with_borrow(Clone::clone)
}

impl HostContext {
    /// What a start of a node has, drawn as the parameters say.
    pub(super) fn drawn(params: &RaftParams, rng: &mut Rng, record: Record) -> HostContext {
        let drift = rng.between(0, 2 * params.drift).cast_signed() - params.drift.cast_signed();
        HostContext {
            offset: rng.below(1 << 40).cast_signed(),
            drift,
            disk: params.disk,
            loss: params.loss,
            conditions: Arc::default(),
            rng: Mutex::new(rng.child("draws")),
            record,
        }
    }

    fn rng(&self) -> std::sync::MutexGuard<'_, Rng> {
        self.rng.lock().expect("no code panics while it draws")
    }

    /// How long the world takes for what this host's clock measures as `length`.
    fn in_world(&self, length: Duration) -> Duration {
        let nanos = i128::try_from(length.as_nanos()).unwrap_or(i128::MAX).min(i128::MAX / MILLION);
        // Rounded up: whoever sleeps until a moment must not wake just before it, and again.
        let speed = MILLION + i128::from(self.drift);
        let nanos = (nanos * MILLION + speed - 1) / speed;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn disk_delay(&self) -> Duration {
        let is_slow = self.conditions.has_slow_disk.load(Ordering::Relaxed);
        let (low, high) = if is_slow { SLOW_DISK } else { self.disk };
        Duration::from_micros(self.rng().between(low, high))
    }
}

/// Whether the datagram that is being sent is lost.
pub(super) fn loses_datagram() -> bool {
    current().is_some_and(|context| {
        let extra = context.conditions.extra_loss.load(Ordering::Relaxed);
        context.rng().chance(context.loss + extra)
    })
}

fn in_world(length: Duration) -> Duration {
    current().map_or(length, |context| context.in_world(length))
}

/// A future that runs in its host's context. A panic in it fails the run: an engine may
/// only lose the task.
pub(super) struct OnHost<F> {
    context: Arc<HostContext>,
    future: Pin<Box<F>>,
}

impl<F> OnHost<F> {
    pub(super) fn new(context: Arc<HostContext>, future: F) -> OnHost<F> {
        OnHost { context, future: Box::pin(future) }
    }
}

impl<F: Future> Future for OnHost<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<F::Output> {
        let outer = CURRENT.replace(Some(self.context.clone()));
        let polled = catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(task)));
        CURRENT.set(outer);
        polled.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
            self.context.record.violate("panic", said.unwrap_or("it did not say why").to_owned());
            resume_unwind(panic)
        })
    }
}

/// A moment on a host's own clock, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostInstant(i128);

fn nanos(length: Duration) -> i128 {
    i128::try_from(length.as_nanos()).unwrap_or(i128::MAX >> 1).min(i128::MAX >> 1)
}

impl Add<Duration> for HostInstant {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        HostInstant(self.0.saturating_add(nanos(length)))
    }
}

impl AddAssign<Duration> for HostInstant {
    fn add_assign(&mut self, length: Duration) {
        *self = *self + length;
    }
}

impl Sub<Duration> for HostInstant {
    type Output = Self;

    fn sub(self, length: Duration) -> Self {
        HostInstant(self.0.saturating_sub(nanos(length)))
    }
}

impl SubAssign<Duration> for HostInstant {
    fn sub_assign(&mut self, length: Duration) {
        *self = *self - length;
    }
}

impl Sub for HostInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl openraft_rt::Instant for HostInstant {
    fn now() -> Self {
        let world = nanos(World::elapsed_here());
        let (offset, drift) = current().map_or((0, 0), |context| (context.offset, context.drift));
        HostInstant(i128::from(offset) + world + world * i128::from(drift) / MILLION)
    }
}

/// The host's generator; every task of the host draws from the same one.
#[derive(Debug)]
pub(super) struct HostRng(Arc<HostContext>);

impl rand_chacha::rand_core::TryRng for HostRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.rng().draw() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.rng().draw())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.rng().draw().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// A future that has only so long.
pub(super) struct Limited<F> {
    future: Pin<Box<F>>,
    sleep: Pin<Box<<World as Engine>::Sleep>>,
}

/// A future had too little time.
#[derive(Debug)]
pub(super) struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it took too long")
    }
}

impl<F: Future> Future for Limited<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(task) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.as_mut().poll(task).map(|()| Err(TimedOut))
    }
}

/// The runtime of a simulated host.
#[derive(Debug)]
pub(super) struct SimulatedRuntime;

impl AsyncRuntime for SimulatedRuntime {
    type JoinError = <World as Engine>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <World as Engine>::JoinHandle<T>;
    type Sleep = <World as Engine>::Sleep;
    type Instant = HostInstant;
    type TimeoutError = TimedOut;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Limited<T>;
    type ThreadLocalRng = HostRng;
    type Mpsc = sync::Channels;
    type Watch = watch::FifoWatch;
    type Oneshot = sync::Oneshots;
    type Mutex<T: OptionalSend + 'static> = sync::FairMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let context = current().expect("only a host's tasks spawn tasks");
        World::spawn(OnHost::new(context, future))
    }

    fn sleep(length: Duration) -> Self::Sleep {
        World::sleep(in_world(length))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Self::sleep(deadline - HostInstant::now())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        length: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Limited { future: Box::pin(future), sleep: Box::pin(Self::sleep(length)) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Self::timeout(deadline - HostInstant::now(), future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        World::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        HostRng(current().expect("only a host's tasks draw"))
    }

    fn new(_threads: usize) -> Self {
        SimulatedRuntime
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, _future: F) -> T {
        unreachable!("a host's tasks are driven by the engine")
    }

    async fn spawn_blocking<F, T>(call: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let context = current().expect("only a host's tasks ask of its disk");
        World::sleep(context.disk_delay()).await;
        let answer = call();
        // A crash in here loses an answer to what was done.
        World::sleep(context.disk_delay()).await;
        Ok(answer)
    }
}
