//! An application's end of a link: `Ring`, `Latest`, `Stream` and `Raw`, the same on the
//! host and in the guest.
//!
//! `vmshm-host` and `vmshm-guest` bring a [`Connection`]; this crate brings what runs over
//! the memory that a connection holds, and the waiting. It knows neither how the memory was
//! found nor who watches the other side.

mod connection;
mod ending;
mod error;
mod tether;

pub use connection::{Connection, Doorbell, Held, Right, Wish};
pub use ending::End;
pub use error::{LinkFailure, OpenError};
pub use tether::Tether;
pub use vmshm_link::control::Role;
pub use vmshm_link::directory::RegionKind;
pub use vmshm_link::duplex::Side;
