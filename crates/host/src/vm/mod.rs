//! [`Vm`]: an application's handle on a VM, through which it opens regions as links.
//!
//! ```no_run
//! use vmshm_host::Vm;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vm = Vm::connect("web")?;
//! for region in vm.regions()? {
//!     println!("{} {}", region.name.as_str(), region.size);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A thread of its own keeps the session while any handle or link of it is left: it beats,
//! looks at the guest about ten times a second, and ends every link of it with the reason
//! when the session, or a region, is over. It writes nothing into regions. When the last
//! handle goes, the session is given back; a program that is killed keeps its regions'
//! pages pinned until another vmshm process of this host connects to the VM.
//!
//! *Over map* a link's operations are loads and stores in the guest's own pages. *Over
//! copy* (private RAM, `Method::Copy`) everything works the same, at other costs:
//!
//! - each access is a system call of its own (on Linux `process_vm_readv`, on Windows
//!   `ReadProcessMemory`), half a microsecond and more instead of a nanosecond. A message
//!   is four to six of them: the right to write (two), the other end's word, the payload,
//!   one's own word. Batches divide that by their length;
//! - control words are aligned and copied as eight bytes at a time, which x86 copies
//!   whole. A payload is copied in any order, so it is always copied before the word that
//!   announces it, by a call of its own;
//! - nothing can be written in place: what is reserved is a buffer of this process, which
//!   is copied when it is committed;
//! - a waiting end looks by a system call, so it should sleep rather than spin.
//!
//! *By a broker*, where the VM is another user's, links work as over map, in a file that holds
//! the region and nothing else. Which regions, the broker's rules say.
//!
//! *Another program grafts* a region that is open: the session ends with
//! [`End::MadeWay`], and that program waits, for two seconds, until nothing of the region is
//! mapped or copied here any more: until its links are reconnected or dropped. Nothing that was sent is
//! lost, and a reconnected link goes on in the region's own file. A program that does not turn
//! to its links in that time keeps the region from being grafted.
//!
//! It refuses nothing that the agent would grant, and keeps no list of names.

mod failure;
mod holds;
mod live;
mod making;
mod opening;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use vmshm_endpoint::{Connection, End, Held, OpenError, RegionOptions, Side, Wish};
use vmshm_link::directory::RegionEntry;
use vmshm_ram::{Method, View};

use self::failure::open_error;
use self::live::Live;
use crate::attach::AttachOptions;
use crate::deadline::Deadline;
use crate::right::WriteRight;
use crate::session::region_name;
use crate::sighting::Where;

/// How to connect to a VM.
#[derive(Debug, Clone)]
pub struct VmOptions {
    /// How to reach guest RAM.
    pub method: Method,
    /// Where to look for the agent's beacon.
    pub place: Where,
    /// How long to wait for the guest's part in a connection, and for the agent's answer
    /// where a request has no time of its own.
    pub timeout: Duration,
    /// As in [`AttachOptions::broker`].
    pub broker: Option<PathBuf>,
}

impl Default for VmOptions {
    fn default() -> Self {
        let attach = AttachOptions::default();
        Self {
            method: attach.method,
            place: attach.place,
            timeout: attach.timeout,
            broker: attach.broker,
        }
    }
}

impl VmOptions {
    fn attach(&self, timeout: Duration) -> AttachOptions {
        AttachOptions {
            method: self.method,
            place: self.place,
            timeout,
            broker: self.broker.clone(),
        }
    }
}

/// A VM, connected to. Clones are the same connection.
#[derive(Debug, Clone)]
pub struct Vm {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    options: VmOptions,
    live: Mutex<Arc<Live>>,
    handles: Mutex<Handles>,
    /// Held by whoever makes a new session.
    reconnecting: Mutex<()>,
}

/// What is open, by the number that its link knows it by. The same region may be open more
/// than once, in sessions that are over, too, so its own number would not do.
#[derive(Debug, Default)]
struct Handles {
    last: u64,
    sessions: BTreeMap<u64, Arc<Live>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is whole between any two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Shared {
    fn drop(&mut self) {
        locked(&self.live).release();
    }
}

impl Vm {
    /// Connects to the VM that `name` names: a process number, a name, or `vmm:name`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn connect(name: &str) -> Result<Self, OpenError> {
        Self::connect_with(name, VmOptions::default())
    }

    /// As [`connect`](Self::connect), in a chosen way.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn connect_with(name: &str, options: VmOptions) -> Result<Self, OpenError> {
        let live = making::make(name, &options)?;
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                options,
                live: Mutex::new(live),
                handles: Mutex::default(),
                reconnecting: Mutex::default(),
            }),
        })
    }

    /// What the VM was called when it was connected to.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether links work in the guest's own pages; else the system copies.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.live().is_mapped()
    }

    /// Why the session is over, if it is: [`reconnect`](Self::reconnect) makes another.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.live().over().map(End::from)
    }

    /// The region called `name`, to be opened or made.
    pub fn region(&self, name: &str) -> RegionOptions<Self> {
        RegionOptions::new(Arc::new(self.clone()), name)
    }

    /// The guest's regions that can be opened.
    ///
    /// # Errors
    /// [`OpenError::Ended`].
    pub fn regions(&self) -> Result<Vec<RegionEntry>, OpenError> {
        let live = self.live();
        live.regions(self.shared.options.timeout)
    }

    /// Removes a region, and its graft unless somebody still has that: whoever has the region
    /// open is told that it is over.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn remove(&self, name: &str) -> Result<(), OpenError> {
        Connection::remove(self, name, self.shared.options.timeout)
    }

    /// Makes a new session where this one is over, and waits for the VM and its agent;
    /// links are reconnected one by one. Does nothing while the session goes on.
    ///
    /// # Errors
    /// [`OpenError`]: the last reason why there was none within `timeout`.
    pub fn reconnect(&self, timeout: Duration) -> Result<(), OpenError> {
        Connection::reconnect(self, timeout)
    }

    fn live(&self) -> Arc<Live> {
        Arc::clone(&locked(&self.shared.live))
    }

    /// Waits until nobody else makes a new session.
    fn turn(&self, deadline: Deadline) -> Option<MutexGuard<'_, ()>> {
        loop {
            match self.shared.reconnecting.try_lock() {
                Ok(turn) => return Some(turn),
                Err(TryLockError::Poisoned(turn)) => return Some(turn.into_inner()),
                Err(TryLockError::WouldBlock) if deadline.has_passed() => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Connection for Vm {
    type Memory = Arc<View>;
    type Right = WriteRight;
    const SIDE: Side = Side::Host;

    /// A region that must exist is waited for, as long as the wish says, and so is one whose
    /// pages another process is still proving. An end that
    /// another process has is waited for at most two seconds, and only as long as a process
    /// that has it may be dying.
    fn open(&self, wish: &Wish) -> Result<Held<Self>, OpenError> {
        let live = self.live();
        let handle = {
            let mut handles = locked(&self.shared.handles);
            handles.last += 1;
            handles.last
        };
        let held = opening::open(&live, handle, wish)?;
        locked(&self.shared.handles).sessions.insert(handle, live);
        Ok(held)
    }

    fn close(&self, region: u64) {
        let session = locked(&self.shared.handles).sessions.remove(&region);
        if let Some(live) = session {
            live.close(region);
        }
    }

    fn remove(&self, name: &str, timeout: Duration) -> Result<(), OpenError> {
        let start = Instant::now();
        let failed = |error| open_error(error, start.elapsed());
        let wanted = region_name(name).map_err(failed)?;
        let deadline = Deadline::after(timeout);
        let removed = self.live().remove(wanted, deadline);
        removed.map_err(failed)
    }

    fn reconnect(&self, timeout: Duration) -> Result<(), OpenError> {
        let start = Instant::now();
        let deadline = Deadline::after(timeout);
        let Some(_turn) = self.turn(deadline) else {
            return Err(OpenError::Timeout {
                what: "another thread is reconnecting: there was no new session",
                waited: start.elapsed(),
            });
        };
        let old = self.live();
        // A link may have met the end before the thread has.
        if old.over().is_none() && old.look_now().is_ok() {
            return Ok(());
        }
        // The guest must not take what the old session holds for still used: its pages, and
        // the ends that others may be waiting for.
        old.wait_for_last_accesses();
        old.release();
        let live = making::make_until(&self.shared.name, &self.shared.options, deadline)?;
        *locked(&self.shared.live) = live;
        Ok(())
    }
}
