//! One session with a guest, from its proof to its end, under the watch of a thread of its
//! own. Whoever uses it takes the session for moments only: nobody waits with it in hand.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use vmshm_endpoint::{Doorbell, End, OpenError, Tether};
use vmshm_link::LinkError;
use vmshm_link::control::{Reply, Request};
use vmshm_link::directory::{MAX_NAME, RegionEntry};
use vmshm_link::fields::Text;
use vmshm_link::wait::Backoff;
use vmshm_pipe::pause;
use vmshm_ram::View;

use super::failure::open_error;
use super::holds::{Holds, end_of};
use crate::conversation::Question;
use crate::deadline::Deadline;
use crate::doorbell::Doorbells;
use crate::ending::{Condition, SessionEnd};
use crate::right::WriteRight;
use crate::session::{RequestError, Session, refusal_to_error};
use crate::sighting::Directory;
use crate::source::Source;

/// How often the thread looks after the session: its heartbeat, the guest's state, and
/// the table's entries of what is held.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long somebody who lets go waits for the agent to say that it knows.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a session that is over stays claimed while somebody may be in the middle of an
/// access that began before its end was told.
const GRACE: Duration = Duration::from_millis(100);

/// A session that runs, or has run.
#[derive(Debug)]
pub(super) struct Live {
    session: Mutex<Option<Session>>,
    state: Mutex<State>,
    stopped: Condvar,
    /// Whence the bytes of its regions come.
    pub(super) source: Source,
    /// The guest's directory; none where a broker keeps the session.
    directory: Option<Directory>,
    /// What tells whether the session's regions are still ours to write.
    pub(super) right: WriteRight,
    /// What wakes the guest's sleepers, and ours, while a listener runs.
    doorbells: Option<Arc<Doorbells>>,
}

#[derive(Debug, Default)]
struct State {
    holds: Holds,
    /// Why it is over, and when that was told.
    over: Option<(SessionEnd, Instant)>,
    is_released: bool,
    /// Regions to be closed as soon as the agent takes requests.
    to_close: Vec<u64>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is whole between any two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// Takes over a session with the VM in process `pid`, and starts its thread.
    ///
    /// # Errors
    /// What the system says when there can be no thread.
    pub(super) fn start(pid: u32, session: Session) -> std::io::Result<Arc<Self>> {
        let right = session.right();
        let right = right.ok_or(std::io::ErrorKind::NotConnected)?;
        let live = Arc::new_cyclic(|live: &Weak<Self>| Self {
            doorbells: {
                let live = live.clone();
                Doorbells::connect(pid, move |region| {
                    if let Some(live) = live.upgrade() {
                        live.wake(region);
                    }
                })
            },
            source: session.source(),
            directory: session.direct().map(|direct| direct.directory().clone()),
            right,
            session: Mutex::new(Some(session)),
            state: Mutex::default(),
            stopped: Condvar::new(),
        });
        let watched = Arc::clone(&live);
        std::thread::Builder::new()
            .name("vmshm-session".to_owned())
            .spawn(move || watched.watch())?;
        Ok(live)
    }

    /// The thread's whole life: until the session is over or released.
    fn watch(&self) {
        loop {
            let state = locked(&self.state);
            let done = |state: &mut State| !state.is_released && state.over.is_none();
            let waited = self.stopped.wait_timeout_while(state, LOOK_EVERY, done);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let (is_released, is_over) = (state.is_released, state.over.is_some());
            drop(state);
            if is_released {
                return;
            }
            if is_over || self.look().is_err() {
                self.hang_up();
                return;
            }
        }
    }

    /// Ends the connection to a broker that has ended the session: it may wait until nobody
    /// uses the regions any more.
    fn hang_up(&self) {
        if self.directory.is_none() {
            self.wait_for_last_accesses();
            drop(locked(&self.session).take());
        }
    }

    /// Looks after the session once.
    fn look(&self) -> Result<(), SessionEnd> {
        let (late, told_over) = self.with_session(|session| {
            session.keep()?;
            Ok((session.late_grants()?, session.regions_told_over()))
        })?;
        let mut state = locked(&self.state);
        // The agent counts each grant, so each that nobody took is given back once.
        state.to_close.extend(late);
        let to_close = std::mem::take(&mut state.to_close);
        let over = match &self.directory {
            Some(directory) => state.holds.look(&directory.memory),
            None => Vec::new(),
        };
        for (region, cause) in told_over {
            state.holds.end_region(region, &end_of(cause));
        }
        drop(state);
        for region in to_close {
            self.tell_closed(region, Duration::ZERO);
        }
        if !over.is_empty() {
            // A guest that has restarted has another table there.
            self.look_now()?;
            let mut state = locked(&self.state);
            for (region, end) in &over {
                tracing::debug!(region, %end, "a region is over");
                state.holds.end_region(*region, end);
            }
        }
        Ok(())
    }

    /// Whether links work in the guest's own pages.
    pub(super) fn is_mapped(&self) -> bool {
        let directory = self.directory.as_ref();
        directory.is_none_or(|directory| directory.memory.is_mapped())
    }

    /// The guest's regions that can be opened.
    pub(super) fn regions(&self, patience: Duration) -> Result<Vec<RegionEntry>, OpenError> {
        let start = Instant::now();
        let failed = |error| open_error(error, start.elapsed());
        self.look_now().map_err(End::from)?;
        if let Some(directory) = &self.directory {
            let listed: Result<Vec<_>, LinkError> = directory.regions().collect();
            return Ok(listed.map_err(End::Link)?);
        }
        let mut session = locked(&self.session);
        let session = session.as_mut().ok_or(End::Closed)?;
        session.regions(patience).map_err(failed)
    }

    /// Looks whether the session goes on, at this moment.
    ///
    /// # Errors
    /// [`SessionEnd`] when it does not.
    pub(super) fn look_now(&self) -> Result<Condition, SessionEnd> {
        self.with_session(Session::look_now)
    }

    /// Uses the session for a moment. What ends it ends everything that is held.
    fn with_session<T>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T, SessionEnd>,
    ) -> Result<T, SessionEnd> {
        let mut session = locked(&self.session);
        if let Some(end) = self.over() {
            return Err(end);
        }
        let session = session.as_mut().ok_or(SessionEnd::AgentLeft)?;
        work(session).map_err(|end| {
            let end = match end {
                SessionEnd::Link(error) => session.why_it_ended(error),
                other => other,
            };
            self.end_with(end);
            end
        })
    }

    fn end_with(&self, end: SessionEnd) {
        tracing::debug!(%end, "a session is over");
        let mut state = locked(&self.state);
        state.over = Some((end, Instant::now()));
        state.holds.end_all(&end.into());
        self.stopped.notify_all();
    }

    /// Why the session is over, if it is.
    pub(super) fn over(&self) -> Option<SessionEnd> {
        locked(&self.state).over.map(|(end, _)| end)
    }

    /// Asks the agent and waits for its answer.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(super) fn ask(&self, request: &Request, deadline: Deadline) -> Result<Reply, RequestError> {
        let start = Instant::now();
        let mut backoff = Backoff::new(64, 1000);
        loop {
            let asked = self.with_session(|session| {
                let condition = session.keep()?;
                Ok((session.ask(request)?, condition))
            });
            match asked? {
                (Some(question), _) => return self.wait_for(question, start, deadline),
                (None, condition) if deadline.has_passed() => {
                    return Err(no_answer(start, condition));
                }
                (None, _) => pause(&mut backoff),
            }
        }
    }

    /// Removes a region, and its graft.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(super) fn remove(
        &self,
        name: Text<MAX_NAME>,
        deadline: Deadline,
    ) -> Result<(), RequestError> {
        let undo = self.with_session(|session| Ok(session.undo_of_graft(name.as_str())))?;
        self.ask(&Request::Remove { name }, deadline)?;
        undo();
        Ok(())
    }

    fn wait_for(
        &self,
        question: Question,
        start: Instant,
        deadline: Deadline,
    ) -> Result<Reply, RequestError> {
        let mut backoff = Backoff::new(64, 1000);
        loop {
            let (reply, condition) = self.with_session(|session| {
                let condition = session.keep()?;
                let reply = session.answer(question)?;
                if reply.is_none() && deadline.has_passed() {
                    session.give_up(question);
                    return Ok((None, Some(condition)));
                }
                Ok((reply, None))
            })?;
            match (reply, condition) {
                (Some(reply), _) => return refusal_to_error(reply),
                (None, Some(condition)) => return Err(no_answer(start, condition)),
                (None, None) => pause(&mut backoff),
            }
        }
    }

    /// Frees what processes of this host held when they died. Says whether the agent has
    /// yet to free what one of them held.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(super) fn release_slots_of_the_dead(&self) -> Result<bool, SessionEnd> {
        self.with_session(Session::release_slots_of_the_dead)
    }

    /// Notes a region that the agent has granted: from here on its end is told.
    ///
    /// # Errors
    /// [`SessionEnd`] when the session is over.
    pub(super) fn hold(
        &self,
        handle: u64,
        region: u64,
        name: &str,
    ) -> Result<Arc<Tether>, SessionEnd> {
        let tether = Arc::new(Tether::default());
        let mut state = locked(&self.state);
        match state.over {
            Some((end, _)) => Err(end),
            None => {
                let kept = Arc::clone(&tether);
                state.holds.insert(handle, region, name, kept);
                Ok(tether)
            }
        }
    }

    /// Notes where the memory of a region lies: it may be cut off from the VM.
    /// A broker says so itself, with the reason.
    pub(super) fn lies(&self, handle: u64, memory: &Arc<View>) {
        if self.directory.is_some() {
            locked(&self.state).holds.lies(handle, memory);
        }
    }

    /// Whether somebody has a region of that name open in this session.
    pub(super) fn has_open(&self, name: &str) -> bool {
        locked(&self.state).holds.has_open(name)
    }

    /// The other side rang for a region: whoever sleeps over it looks again.
    fn wake(&self, region: u64) {
        locked(&self.state).holds.wake(region);
    }

    /// What wakes the guest's sleepers over a region, if anything does.
    pub(super) fn doorbell(&self, region: u64) -> Option<Arc<dyn Doorbell>> {
        let doorbells = Arc::clone(self.doorbells.as_ref()?);
        Some(Arc::new(Bell { doorbells, region }))
    }

    /// Somebody lets go of what it holds.
    pub(super) fn close(&self, handle: u64) {
        let mut state = locked(&self.state);
        let is_over = state.over.is_some();
        let removed = state.holds.remove(handle, is_over);
        drop(state);
        let Some((tether, region)) = removed else {
            return;
        };
        tether.end(End::Closed);
        if self.over().is_some() {
            if locked(&self.state).holds.is_empty() {
                self.release();
            }
            return;
        }
        self.tell_closed(region, FAREWELL);
    }

    /// Tells the agent that this session holds a region once less. A guest that does not run
    /// is told when it does again.
    fn tell_closed(&self, region: u64, patience: Duration) {
        let start = Instant::now();
        let asked = self.with_session(|session| {
            let runs = session.keep()? == Condition::Running;
            Ok((session.ask(&Request::Close { region })?, runs))
        });
        match asked {
            Ok((Some(question), runs)) => {
                let patience = if runs { patience } else { Duration::ZERO };
                // Whatever the answer: it is held no more, or the session is over.
                let _ = self.wait_for(question, start, Deadline::after(patience));
            }
            Ok((None, _)) => locked(&self.state).to_close.push(region),
            Err(_) => {}
        }
    }

    /// Waits until nobody can be in the middle of an access to a session that is over, for
    /// as long as that may take.
    pub(super) fn wait_for_last_accesses(&self) {
        let state = locked(&self.state);
        let left = state
            .over
            .map(|(_, told)| GRACE.saturating_sub(told.elapsed()))
            .filter(|_| !state.holds.is_empty());
        drop(state);
        std::thread::sleep(left.unwrap_or_default());
    }

    /// Gives the session's slot back, if it is still ours, and ends the thread.
    pub(super) fn release(&self) {
        let mut state = locked(&self.state);
        state.is_released = true;
        state.holds.end_all(&End::Closed);
        // Nothing may reach the pages once the slot is given back.
        state.holds.abandon();
        self.stopped.notify_all();
        drop(state);
        let session = locked(&self.session).take();
        drop(session);
    }
}

/// Rings for one region by its number in the guest: a link knows only its handle's.
#[derive(Debug)]
struct Bell {
    doorbells: Arc<Doorbells>,
    region: u64,
}

impl Doorbell for Bell {
    fn ring(&self, _handle: u64) {
        self.doorbells.ring(self.region);
    }
}

fn no_answer(start: Instant, condition: Condition) -> RequestError {
    RequestError::NoAnswer {
        seconds: start.elapsed().as_secs(),
        condition,
    }
}
