//! Puts a memory file in the place of pages of a running VM's process, and takes it away
//! again, so that a region becomes an ordinary descriptor that can be handed on: its holder
//! sees the region and nothing else. The only crate that stops or changes another process.
//!
//! The way through it: [`examine`] says whether a process may be grafted; [`graft`] does it;
//! [`undo`] makes the memory private again. Whoever calls them may die at any
//! instruction, and the process runs on with its memory intact: see `chain` (threads that
//! find back by themselves) and `tracer` (what holds when bytes must be kept).
//!
//! It refuses what it would break, each cause by name ([`Refusal`]). It knows nothing of
//! guests: whoever calls it says which addresses of the process belong to the region, and
//! proves afterwards that both sides see the same bytes.
//!
//! Threads are stopped for at most 20 ms before the attempt is given up. A thread
//! whose call was interrupted makes it again, as the kernel would have arranged. Only where
//! that cannot be known a wait for a length of time starts anew, or gives `EINTR`;
//! it concerns the borrowed thread, which is chosen so that this is rare, and the others only
//! if we die. Programs whose threads run on stacks too small for a signal's handler (Go)
//! must not be grafted.
//!
//! The pages of the memory file count for the memory limit (cgroup) of whoever grafts.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod ahead;
mod chain;
mod change;
mod examine;
mod filter;
mod frame;
mod gadget;
mod injected;
mod operation;
mod origin;
mod os;
mod pieces;
mod process;
mod refusal;
mod region_file;
mod restart;
mod rounds;
mod step;
mod tracer;

pub use change::Contents;
pub use examine::examine;
pub use operation::{Grafted, Region, graft, undo, withdraw};
pub use origin::Origin;
pub use pieces::Piece;
pub use refusal::{GraftError, Refusal};
pub use rounds::Pause;
pub use step::Step;
