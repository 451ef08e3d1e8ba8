//! A watch channel that wakes its waiters in the order in which they began to wait.
//!
//! tokio's picks one of eight lists of waiters by a generator that the operating system seeds, so
//! that equal runs would wake their tasks in different orders.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

use openraft_rt::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft_rt::{OptionalSend, OptionalSync};

/// The channels.
pub(super) struct FifoWatch;

struct Shared<T> {
    value: RwLock<T>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    version: u64,
    senders: u64,
    receivers: u64,
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl<T> Shared<T> {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no code panics while it holds the waiters")
    }

    fn value(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().expect("a watched value is replaced as a whole")
    }

    fn changed(&self) {
        self.waiting().version += 1;
        self.wake();
    }

    fn wake(&self) {
        let wakers = std::mem::take(&mut self.waiting().wakers);
        wakers.into_values().for_each(Waker::wake);
    }
}

pub(super) struct Sender<T>(Arc<Shared<T>>);

pub(super) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.waiting().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.waiting().senders -= 1;
        self.0.wake();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.waiting().receivers += 1;
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.waiting().receivers -= 1;
    }
}

impl Watch for FifoWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(first: T) -> (Sender<T>, Receiver<T>) {
        let waiting = Mutex::new(Waiting { senders: 1, receivers: 1, ..Waiting::default() });
        let shared = Arc::new(Shared { value: RwLock::new(first), waiting });
        (Sender(shared.clone()), Receiver { shared, seen: 0 })
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<FifoWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.waiting().receivers == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|held| {
            *held = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let mut value = self.0.value.write().expect("a watched value is replaced as a whole");
        let modified = modify(&mut value);
        drop(value);
        if modified {
            self.0.changed();
        }
        modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.value()
    }

    fn subscribe(&self) -> Receiver<T> {
        let mut waiting = self.0.waiting();
        waiting.receivers += 1;
        let seen = waiting.version;
        drop(waiting);
        Receiver { shared: self.0.clone(), seen }
    }
}

/// A place among the waiters, given up when whoever waits stops waiting.
struct Place<'a, T> {
    shared: &'a Shared<T>,
    number: Option<u64>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.waiting().wakers.remove(&number);
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<FifoWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let seen = &mut self.seen;
        let mut place = Place { shared: &self.shared, number: None };
        poll_fn(|task| {
            let mut waiting = place.shared.waiting();
            if waiting.version != *seen {
                *seen = waiting.version;
                return Poll::Ready(Ok(()));
            }
            if waiting.senders == 0 {
                return Poll::Ready(Err(RecvError(())));
            }
            let number = place.number.unwrap_or(waiting.next);
            waiting.next = waiting.next.max(number + 1);
            waiting.wakers.insert(number, task.waker().clone());
            drop(waiting);
            place.number = Some(number);
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.shared.value()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.value();
        self.seen = self.shared.waiting().version;
        value
    }
}
