//! The rendezvous over a connection (TCP, vsock, a serial line): an agent connects out to `vmshm listen`, and a nonce shows
//! to which VM's memory the connection belongs.
//!
//! ```text
//!  listener                               agent
//!   │ ◀──────────── connects ──────────────│
//!   │ greeting ───────────────────────────▶ │ goes on only if it is right
//!   │ ◀──────────── greeting, Announce     │ beacon's address, epoch, boot id
//!   │ looks at that address in each VM      │
//!   │ Challenge(nonce) ───────────────────▶ │ writes answer and secret into memory
//!   │ ◀──────────── Shown                  │
//!   │ reads both there: this VM it is       │
//!   │ Tied(countersign) ──────────────────▶ │ checks it, wipes the words
//!   │ … the connection stays open …         │
//!   │ ◀── Bell(region) ──────────────────▶ │ as often as somebody sleeps
//! ```
//!
//! *Who proves what.* The answer is a keyed digest of the nonce. It stands in the
//! directory of the guest that got the nonce and nowhere else, so an agent that
//! announces another VM's beacon is found out. The secret was made for this nonce and
//! lies beside the answer; the countersign is a digest of it, so a listener that cannot
//! read the guest's memory is found out, too. Neither answer nor secret ever goes over
//! TCP. The listener only reads guest memory.
//!
//! *What strangers get.* A listener sends a greeting to everybody, a challenge only to
//! a peer that has named the epoch of a beacon that really stands in a VM of the host (64
//! random bits that only that guest's root and the host can read), and a countersign
//! only to one whose answer it has read. It never says why it closes a connection.
//!
//! *In memory.* Four words behind the directory's header, written by the agent only,
//! zero while nothing is asked. A host that knows nothing of them never looks there.
//!
//! ```text
//! 0xa40 answer, low word (written last)    0xa48 answer, high word
//! 0xa50 secret, low word                   0xa58 secret, high word
//! ```
//!
//! *Bells.* Over a tied connection each side may say of a region that there is something
//! for whoever sleeps over it on the other side. That is a hint and nothing else: it may be
//! lost, come late or come for nothing, names any number, and permits nothing. [`bells`]
//! bounds what is remembered of them.
//!
//! The pair: `rendezvous-answer` (agent's answer → host).
//!
//! The messages are described in [`message`].

pub mod bells;
pub mod endpoint;
pub mod message;
pub mod serial;

use sha2::{Digest, Sha256};
use vmshm_shm::SharedMemory;

use crate::error::LinkError;
use crate::fields::word_at;

/// Where the agent shows its answer, in the directory's first page.
const ANSWER_AT: u64 = 0xa40;
/// Where its secret lies.
const SECRET_AT: u64 = 0xa50;
/// The first byte after the words.
pub(crate) const END: u64 = 0xa60;
/// The first byte of the words.
pub(crate) const START: u64 = ANSWER_AT;

const _: () = assert!(ANSWER_AT + 16 == SECRET_AT && SECRET_AT + 16 == END);
// One cache line: a reader that sees the answer has the rest at hand.
const _: () = assert!(ANSWER_AT / 64 == (END - 1) / 64);

/// What a listener asks with; random, for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

/// What an agent lays beside its answer; random, for one nonce.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a listener sends to show that it has read the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Countersign(pub [u8; 16]);

/// The answer that an agent with this epoch shows to a nonce.
fn answer(nonce: Nonce, epoch: u64) -> [u64; 2] {
    words(digest(b"vmshm-answer", &nonce.0, &epoch.to_le_bytes()))
}

/// What shows that a listener which sent `nonce` has read `secret`.
#[must_use]
pub fn countersign(nonce: Nonce, secret: Secret) -> Countersign {
    Countersign(digest(b"vmshm-countr", &nonce.0, &secret.0))
}

/// The first half of a SHA-256 (FIPS 180-4) over a label, a nonce and a key, each of a
/// fixed length for its label.
fn digest(label: &[u8; 12], nonce: &[u8; 16], key: &[u8]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(label);
    hash.update(nonce);
    hash.update(key);
    let whole: [u8; 32] = hash.finalize().into();
    whole.first_chunk().copied().unwrap_or_default()
}

fn words(bytes: [u8; 16]) -> [u64; 2] {
    [word_at(&bytes, 0), word_at(&bytes, 8)]
}

/// The agent's side: shows the answer to a nonce, with a fresh secret beside it.
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn show<M: SharedMemory>(
    directory: &M,
    nonce: Nonce,
    epoch: u64,
    secret: Secret,
) -> Result<(), LinkError> {
    wipe(directory)?;
    let [low, high] = words(secret.0);
    directory.store_relaxed(SECRET_AT, low)?;
    directory.store_relaxed(SECRET_AT + 8, high)?;
    let [low, high] = answer(nonce, epoch);
    directory.store_relaxed(ANSWER_AT + 8, high)?;
    // release: rendezvous-answer
    directory.store_release(ANSWER_AT, low)?;
    Ok(())
}

/// The agent's side: shows nothing any more.
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn wipe<M: SharedMemory>(directory: &M) -> Result<(), LinkError> {
    for word in (START..END).step_by(8) {
        directory.store_relaxed(word, 0)?;
    }
    Ok(())
}

/// The host's side: the secret, if the answer to `nonce` stands in this directory.
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn look<M: SharedMemory>(
    directory: &M,
    nonce: Nonce,
    epoch: u64,
) -> Result<Option<Secret>, LinkError> {
    let [low, high] = answer(nonce, epoch);
    // acquire: rendezvous-answer
    if directory.load_acquire(ANSWER_AT)? != low || directory.load_relaxed(ANSWER_AT + 8)? != high {
        return Ok(None);
    }
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&directory.load_relaxed(SECRET_AT)?.to_le_bytes());
    secret[8..].copy_from_slice(&directory.load_relaxed(SECRET_AT + 8)?.to_le_bytes());
    Ok(Some(Secret(secret)))
}

#[cfg(test)]
mod tests {
    use vmshm_shm::LocalMemory;

    use super::*;
    use crate::directory::{Budget, DIRECTORY_SIZE, Header};

    const NONCE: Nonce = Nonce([7; 16]);
    const SECRET: Secret = Secret([9; 16]);

    fn directory() -> LocalMemory {
        LocalMemory::new(usize::try_from(DIRECTORY_SIZE).expect("small"))
    }

    #[test]
    fn an_answer_is_seen_by_whoever_asked_and_by_nobody_else() {
        let memory = directory();
        assert_eq!(look(&memory, NONCE, 5), Ok(None));
        show(&memory, NONCE, 5, SECRET).expect("shown");
        assert_eq!(look(&memory, NONCE, 5), Ok(Some(SECRET)));
        assert_eq!(look(&memory, NONCE, 6), Ok(None), "another guest's epoch");
        assert_eq!(look(&memory, Nonce([8; 16]), 5), Ok(None));
        wipe(&memory).expect("wiped");
        assert_eq!(look(&memory, NONCE, 5), Ok(None));
    }

    #[test]
    fn both_words_of_the_answer_count() {
        for word in [ANSWER_AT, ANSWER_AT + 8] {
            let memory = directory();
            show(&memory, NONCE, 5, SECRET).expect("shown");
            let there = memory.load_relaxed(word).expect("there");
            memory.store_relaxed(word, there ^ 1).expect("there");
            assert_eq!(look(&memory, NONCE, 5), Ok(None));
        }
    }

    #[test]
    fn a_countersign_needs_the_secret_and_the_nonce() {
        let right = countersign(NONCE, SECRET);
        assert_ne!(right, countersign(NONCE, Secret([8; 16])));
        assert_ne!(right, countersign(Nonce([8; 16]), SECRET));
        assert_ne!(right.0, SECRET.0);
    }

    #[test]
    fn the_words_disturb_neither_header_nor_budget() {
        let memory = directory();
        let header = Header::new(5, 100, "0.1.0", "6.1", &[]);
        let budget = Budget {
            pinned: 1,
            limit: 2,
        };
        header.write(&memory).expect("written");
        budget.write(&memory).expect("written");
        show(&memory, NONCE, 5, SECRET).expect("shown");
        assert_eq!(Header::read(&memory), Ok(header));
        assert_eq!(Budget::read(&memory), Ok(budget));
    }
}
