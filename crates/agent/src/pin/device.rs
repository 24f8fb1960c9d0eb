//! The memory of a framebuffer device: the kernel's own pages, into which the guest's display
//! driver draws. They do not move while the device is open, and are nobody's to pin.
//!
//! It opens framebuffers and nothing else. A driver whose mapping shows no page frames (DRM's
//! emulation does not) is refused: what lies behind it may change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// The major number of framebuffer devices.
const MAJOR: u32 = 29;
const PREFIX: &str = "/dev/fb";

/// Why a device's memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// Not the path of a framebuffer.
    #[error("{0:?} is no framebuffer device")]
    NotOne(String),
    /// It could not be opened.
    #[error("cannot open {path}: {error}")]
    Open {
        /// Its path.
        path: String,
        /// What the system said.
        #[source]
        error: Errno,
    },
    /// It could not be mapped.
    #[error("cannot map {size} bytes of {path}: {error}")]
    Map {
        /// Its path.
        path: String,
        /// How much.
        size: u64,
        /// What the system said.
        #[source]
        error: Errno,
    },
    /// Where its pages lie is not told.
    #[error("the driver of {path} does not show where its pages lie")]
    NoFrames {
        /// Its path.
        path: String,
    },
}

/// An open framebuffer device.
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
}

impl Device {
    /// Opens `/dev/fb` and a number.
    pub(super) fn open(path: &str) -> Result<Self, DeviceError> {
        let number = path.strip_prefix(PREFIX).unwrap_or_default();
        let is_number =
            (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
        let not_one = || DeviceError::NotOne(path.chars().take(64).collect());
        if !is_number {
            return Err(not_one());
        }
        let failed = |error| DeviceError::Open {
            path: path.to_owned(),
            error,
        };
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let facts = rustix::fs::fstat(&fd).map_err(failed)?;
        let is_framebuffer = FileType::from_raw_mode(facts.st_mode) == FileType::CharacterDevice
            && rustix::fs::major(facts.st_rdev) == MAJOR;
        if is_framebuffer {
            Ok(Self { fd })
        } else {
            Err(not_one())
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_framebuffers_are_opened() {
        for path in [
            "",
            "/dev/fb",
            "/dev/mem",
            "/dev/fb0/../mem",
            "/dev/fb0x",
            "/dev/fb١",
            "/dev/fb0000",
            "dev/fb0",
        ] {
            let refused = Device::open(path);
            assert!(matches!(refused, Err(DeviceError::NotOne(_))), "{path}");
        }
    }
}
