//! Wakes the tasks that wait for a stream, without any runtime: one thread a stream, begun
//! when the first task has to wait, which sleeps as a waiting end does and compares the
//! other side's words with what the tasks had seen.
//!
//! It reads a few words and moves no data: the tasks look for themselves.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;

use vmshm_link::LinkError;
use vmshm_link::ends::Presence;
use vmshm_shm::SharedMemory;

use crate::connection::Connection;
use crate::hold::Hold;

/// What a task waits to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    Read,
    Write,
}

/// The other side's words, any of which may be what a task waits for. Nothing if they could
/// not be read: then the task looks again at once, and learns why.
pub(super) type Seen = Option<(u64, u64, Presence)>;

/// Tasks that wait, and the thread that wakes them.
#[derive(Debug)]
pub(super) struct Readiness<C: Connection> {
    shared: Arc<Shared<C>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared<C: Connection> {
    hold: Arc<Hold<C>>,
    /// One for each direction.
    tasks: Mutex<[Option<Task>; 2]>,
    registered: Condvar,
    stopped: AtomicBool,
}

#[derive(Debug)]
struct Task {
    seen: Seen,
    waker: Waker,
}

impl<C: Connection> Readiness<C> {
    pub(super) fn new(hold: &Arc<Hold<C>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                hold: Arc::clone(hold),
                tasks: Mutex::default(),
                registered: Condvar::new(),
                stopped: AtomicBool::new(false),
            }),
            thread: Mutex::new(None),
        }
    }

    /// What a task sees before it looks for itself.
    pub(super) fn see(&self) -> Seen {
        self.shared.see().ok()
    }

    /// Wakes `waker` once the words differ from what was `seen`, or the region is over. One
    /// task waits for each direction; the last that asked.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(super) fn wait(&self, direction: Direction, seen: Seen, waker: Waker) -> io::Result<()> {
        let mut tasks = self.shared.tasks();
        if let Some(place) = tasks.get_mut(direction as usize) {
            *place = Some(Task { seen, waker });
        }
        drop(tasks);
        self.shared.registered.notify_one();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() && !self.shared.stopped.load(Ordering::Relaxed) {
            let shared = Arc::clone(&self.shared);
            let name = "vmshm-stream".to_owned();
            *thread = Some(
                std::thread::Builder::new()
                    .name(name)
                    .spawn(move || shared.run())?,
            );
        }
        Ok(())
    }

    /// Ends the thread and waits for that, so that the region is touched no more. Tasks
    /// that wait are woken.
    pub(super) fn stop(&self) {
        // The lock orders this before the thread's next look at it.
        let tasks = self.shared.tasks();
        self.shared.stopped.store(true, Ordering::Relaxed);
        drop(tasks);
        self.shared.registered.notify_one();
        self.shared.hold.tether().wake();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A task that is dropped by its own waking drops the stream on this thread.
            if thread.thread().id() != std::thread::current().id() {
                // A panic there has been reported by the thread itself.
                let _ = thread.join();
            }
        }
    }
}

impl<C: Connection> Drop for Readiness<C> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<C: Connection> Shared<C> {
    fn tasks(&self) -> MutexGuard<'_, [Option<Task>; 2]> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self) -> Result<(u64, u64, Presence), LinkError> {
        let (memory, other) = (self.hold.memory(), C::SIDE.other());
        let presence = self.hold.see_peer()?;
        // Only compared: the tasks load them again, in order.
        Ok((
            memory.load_relaxed(other.front())?,
            memory.load_relaxed(other.back())?,
            presence,
        ))
    }

    fn run(&self) {
        while self.await_task() {
            // Over or not: the tasks find out.
            match self.hold.wait(None, || self.look()) {
                Ok(_) => {}
                Err(_) => wake(self.take(|_| true)),
            }
        }
        wake(self.take(|_| true));
    }

    /// Waits until a task does; whether one came before the end.
    fn await_task(&self) -> bool {
        let mut tasks = self.tasks();
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return false;
            }
            if tasks.iter().any(Option::is_some) {
                return true;
            }
            tasks = self
                .registered
                .wait(tasks)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes the tasks whose words have changed; done once none waits.
    fn look(&self) -> Result<Option<()>, LinkError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Ok(Some(()));
        }
        let now = self.see()?;
        wake(self.take(|task| task.seen != Some(now)));
        let left = self.tasks().iter().any(Option::is_some);
        Ok((!left).then_some(()))
    }

    fn take(&self, due: impl Fn(&Task) -> bool) -> [Option<Task>; 2] {
        let mut tasks = self.tasks();
        [0, 1].map(|index| {
            tasks
                .get_mut(index)
                .and_then(|place| place.take_if(|task| due(task)))
        })
    }
}

/// Wakes tasks; no lock is held meanwhile.
fn wake(tasks: [Option<Task>; 2]) {
    for task in tasks.into_iter().flatten() {
        task.waker.wake();
    }
}
