//! What can go wrong between two sides that share memory. None of these is a
//! reason to panic, and after any of them but [`LinkError::Fault`] on a bad
//! offset of one's own, the session is over.

use vmshm_shm::Fault;

use crate::version::Version;

/// A failure of the shared memory or of the peer behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The memory could not be accessed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A word that this side wrote last, or a pulse that only grows, holds another value:
    /// the VM was set back to an earlier state, or somebody else wrote there. The session
    /// ends; the memory's content is never taken as data after this.
    #[error(
        "the {what} went back from {written:#x} to {found:#x}: the machine was set back to an earlier state"
    )]
    RolledBack {
        /// Which word.
        what: &'static str,
        /// What this side wrote last.
        written: u64,
        /// What is there now.
        found: u64,
    },
    /// The peer wrote something that the protocol does not allow. The session ends.
    #[error("the other side broke the protocol: {what} is {value:#x}")]
    Violation {
        /// Which word or field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// The two sides speak different major versions.
    #[error("the other side speaks protocol {theirs}, this side speaks {ours}")]
    Incompatible {
        /// This side's version.
        ours: Version,
        /// The other side's version.
        theirs: Version,
    },
    /// The guest gave this session's slot away: its user released it by force.
    #[error("the guest has ended this session (vmshm-agent release --force)")]
    Revoked,
    /// A record or message does not fit the ring that it was meant for.
    #[error("{length} bytes do not fit one record of this ring (at most {limit})")]
    TooLong {
        /// The length asked for.
        length: u64,
        /// The longest that fits.
        limit: u64,
    },
    /// Bytes that are not a whole number of a ring's records.
    #[error("{length} bytes are not whole records of {record} bytes")]
    NotWhole {
        /// The length given.
        length: u64,
        /// The length of one record.
        record: u64,
    },
    /// A record of no bytes would carry nothing.
    #[error("a record or value needs at least one byte")]
    EmptyRecord,
    /// A region is too small for what shall lie in it.
    #[error("a region of {size} bytes is too small for {what}, which takes {needed}")]
    TooSmall {
        /// What does not fit.
        what: &'static str,
        /// The region's size.
        size: u64,
        /// The smallest size that would do.
        needed: u64,
    },
}
