//! An application's end of a link: [`Ring`], [`ByteRing`], [`Latest`], [`Stream`] and
//! [`Raw`], the same on the host and in the guest.
//!
//! `vmshm-host` and `vmshm-guest` bring a [`Connection`]; this crate brings what runs over
//! the memory that a connection holds, and the waiting. It knows neither how the memory was
//! found nor who watches the other side. [`loopback`] is a connection within one process.
//!
//! # What it costs
//!
//! While both sides are awake, no message makes a system call over mapped memory. One that
//! waits spins, then lets other threads run, and then sleeps until the other side's doorbell
//! rings, or for a bounded time where none leads to it ([`RegionOptions::longest_sleep`]).
//!
//! Over copying memory every access is a system call: a control word is copied as eight
//! aligned bytes, a payload before the word that announces it. Batches
//! ([`Ring::send_all`], [`Ring::receive_into`]) need few calls for many records.
//!
//! # What an end finds
//!
//! A link's state is in its region, and stays there until the region is removed. Ends come
//! and go: one that is opened goes on where the last one of its side stopped.
//! One program of each side has an end at a time; of a latest any number may watch.

mod byte_ring;
mod connection;
mod ending;
mod error;
mod hold;
mod latest;
mod latest_bytes;
mod latest_watch;
pub mod loopback;
mod options;
mod os;
mod raw;
mod ring;
mod room_bell;
mod stream;
mod tether;
mod wait;

pub use byte_ring::{ByteRing, ByteRingReceiver, ByteRingSender, Peeked, Room};
pub use connection::{Connection, Doorbell, Held, Right, Wish};
pub use ending::End;
pub use error::{Gone, LinkFailure, NotJoined, OpenError};
pub use latest::Latest;
pub use latest_bytes::LatestBytes;
pub use latest_watch::{LatestBytesWatch, LatestWatch};
pub use options::RegionOptions;
pub use raw::{Raw, RawWord};
pub use ring::{Ring, RingReceiver, RingSender};
pub use stream::{Stream, StreamReader, StreamWriter};
pub use tether::Tether;
pub use vmshm_link::control::Role;
pub use vmshm_link::directory::RegionKind;
pub use vmshm_link::duplex::Side;
pub use vmshm_link::ends::{Presence, PresenceState};
/// Its derives say that a type may be a record or a value.
pub use zerocopy;
