//! Work on all cores whose results come out in the order of the jobs, and at once: the
//! first job's results are handed on while it still runs. What is ahead is bounded, so a
//! slow taker slows the workers and memory stays small. It knows nothing of memory.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// How many jobs are given out for each worker.
const JOBS_AHEAD: usize = 4;
/// How many results of one job may wait to be taken.
const RESULTS_AHEAD: usize = 4;

/// Where a worker puts its results.
#[derive(Debug)]
pub(super) struct Outlet<'a, T> {
    results: SyncSender<T>,
    stopped: &'a AtomicBool,
}

impl<T> Outlet<'_, T> {
    /// Hands on a result; says whether more is wanted. Waits where the taker is behind.
    pub(super) fn put(&self, result: T) -> ControlFlow<()> {
        match self.results.send(result) {
            Ok(()) => self.is_wanted(),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Whether results are still wanted; to be asked now and then.
    pub(super) fn is_wanted(&self) -> ControlFlow<()> {
        // A hint only: nothing else is read because of it.
        if self.stopped.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Does all `jobs` on `workers` threads and gives their results to `take` in the order
/// of the jobs, until it says no. Each worker keeps a state of its own between jobs.
pub(super) fn in_order<J, S, T>(
    workers: NonZeroUsize,
    jobs: impl Iterator<Item = J>,
    work: impl Fn(&mut S, J, &Outlet<'_, T>) + Sync,
    mut take: impl FnMut(T) -> ControlFlow<()>,
) -> ControlFlow<()>
where
    J: Send,
    S: Default,
    T: Send,
{
    let stopped = AtomicBool::new(false);
    let (give, given) = channel::<(J, SyncSender<T>)>();
    let given = Mutex::new(given);
    let next_job = || {
        // A worker that panicked held no half-changed state in there.
        let given = given.lock().unwrap_or_else(PoisonError::into_inner);
        given.recv().ok()
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.get() {
            scope.spawn(|| {
                let mut state = S::default();
                while let Some((job, results)) = next_job() {
                    let outlet = Outlet {
                        results,
                        stopped: &stopped,
                    };
                    if outlet.is_wanted().is_continue() {
                        work(&mut state, job, &outlet);
                    }
                }
            });
        }
        let mut jobs = jobs.fuse();
        let mut open: VecDeque<Receiver<T>> = VecDeque::new();
        let flow = loop {
            while open.len() < workers.get().saturating_mul(JOBS_AHEAD)
                && let Some(job) = jobs.next()
            {
                let (results, taken) = sync_channel(RESULTS_AHEAD);
                if give.send((job, results)).is_err() {
                    break;
                }
                open.push_back(taken);
            }
            let Some(first) = open.pop_front() else {
                break ControlFlow::Continue(());
            };
            if first.iter().try_for_each(&mut take).is_break() {
                // Told before the results' way is closed, which happens with `first`.
                stopped.store(true, Ordering::Relaxed);
                break ControlFlow::Break(());
            }
        };
        // The workers leave when no job can come any more; those that wait to hand on a
        // result are told by the dropped receivers.
        drop(give);
        flow
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKERS: NonZeroUsize = NonZeroUsize::new(3).expect("not zero");

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let mut taken = Vec::new();
        let flow = in_order(
            WORKERS,
            0..200_u64,
            |_: &mut (), job, outlet| {
                // Later jobs often end first.
                std::thread::sleep(std::time::Duration::from_micros((job % 7) * 50));
                for part in 0..job % 11 {
                    if outlet.put((job, part)).is_break() {
                        return;
                    }
                }
            },
            |result| {
                taken.push(result);
                ControlFlow::Continue(())
            },
        );
        let expected: Vec<(u64, u64)> = (0..200)
            .flat_map(|job| (0..job % 11).map(move |part| (job, part)))
            .collect();
        assert_eq!((flow, taken), (ControlFlow::Continue(()), expected));
    }

    #[test]
    fn the_first_results_do_not_wait_for_the_end_of_their_job() {
        let go_on = AtomicBool::new(false);
        let mut taken = 0;
        let flow = in_order(
            WORKERS,
            0..1,
            |_: &mut (), _, outlet| {
                let _ = outlet.put(1);
                // Ends only because the taker has seen the first result.
                while !go_on.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                let _ = outlet.put(2);
            },
            |result| {
                taken = result;
                go_on.store(true, Ordering::Release);
                ControlFlow::Continue(())
            },
        );
        assert_eq!((flow, taken), (ControlFlow::Continue(()), 2));
    }

    #[test]
    fn a_taker_that_has_enough_ends_endless_work() {
        let mut taken = 0;
        let flow = in_order(
            WORKERS,
            0..u64::MAX,
            |_: &mut (), job, outlet| {
                while outlet.put(job).is_continue() {}
                assert!(outlet.is_wanted().is_break());
            },
            |_| {
                taken += 1;
                if taken == 50 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        assert_eq!((flow, taken), (ControlFlow::Break(()), 50));
    }
}
