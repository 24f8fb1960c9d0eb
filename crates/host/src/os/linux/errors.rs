//! The system's error codes that decide something outside this module.

use std::io;

use rustix::io::Errno;

/// Whether the system has no addresses of that kind at all.
pub(crate) fn is_no_such_address_family(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}
