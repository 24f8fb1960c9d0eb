//! The steps at which the outside of a graft can be looked at, and at which the tests
//! let it die. Nothing is decided here.

use std::fmt;

/// What was just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// A thread is traced, and still runs.
    Seized,
    /// A thread was asked to stop.
    Interrupted,
    /// A thread stands still.
    Stopped,
    /// What it goes on with was read.
    Held,
    /// Frames lie below a thread's stack.
    Written,
    /// A thread's registers lead back by a detour, whether a signal comes or not.
    Redirected,
    /// The signals that a thread blocks were set.
    Masked,
    /// A thread's registers lead to injected calls.
    Directed,
    /// The word that releases the others says that they must wait.
    Barred,
    /// The pages are watched for what is written to them.
    Watched,
    /// Most bytes are in the memory file, although all threads run.
    CopiedAhead,
    /// The old bytes are in the memory file.
    Copied,
    /// The borrowed thread will now replace the pieces, come what may.
    Committed,
    /// The borrowed thread runs, no longer traced.
    LetGo,
    /// An injected call has begun.
    CallEntered,
    /// An injected call has ended.
    CallLeft,
    /// The borrowed thread has made all its calls.
    Done,
    /// A thread that stood by was given its own registers back.
    GivenBack,
    /// A thread is no longer traced.
    Released,
    /// The memory file exists in the process.
    FileFound,
    /// It has its size and its seals.
    FileSealed,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Who is told of each step.
pub(crate) type Watch<'a> = &'a mut (dyn FnMut(Step) + Send);
