//! One picture on its way from the compositor, from the question to the end.
//!
//! ```text
//! ask ──▶ the compositor says what buffer it wants ──▶ copy ──▶ ready, or failed
//! ```

use std::time::{Duration, Instant};

use rustix::time::ClockId;
use vmshm_link::frames::{Damage, PixelFormat, Rectangle};
use wayland_client::Proxy;
use wayland_client::protocol::wl_shm::Format;
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_frame_v1::{
    Event, Flags, ZwlrScreencopyFrameV1,
};

/// Which capture of which screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The screen.
    pub screen: u64,
    /// The capture's number.
    pub number: u64,
}

/// The buffer that a compositor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// The pixels' format, as `wl_shm` numbers it.
    pub format: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
}

/// What a compositor says of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameEvent {
    /// The buffer that it wants.
    Buffer(Spec),
    /// It has said all about buffers.
    BufferDone,
    /// Whether the picture is upside down.
    Inverted(bool),
    /// What has changed.
    Damage(Rectangle),
    /// The picture is there; it was shown at this time.
    Ready(Duration),
    /// There will be no picture.
    Failed,
}

impl FrameEvent {
    /// Nothing for events that do not matter.
    pub fn new(event: Event) -> Option<Self> {
        Some(match event {
            Event::Buffer {
                format,
                width,
                height,
                stride,
            } => Self::Buffer(Spec {
                format: format.into(),
                width,
                height,
                stride,
            }),
            Event::BufferDone => Self::BufferDone,
            Event::Flags { flags } => Self::Inverted(u32::from(flags) & Flags::YInvert.bits() != 0),
            Event::Damage {
                x,
                y,
                width,
                height,
            } => Self::Damage(Rectangle {
                x,
                y,
                width,
                height,
            }),
            Event::Ready {
                tv_sec_hi,
                tv_sec_lo,
                tv_nsec,
            } => {
                let seconds = u64::from(tv_sec_hi) << 32 | u64::from(tv_sec_lo);
                Self::Ready(Duration::new(seconds, tv_nsec.min(999_999_999)))
            }
            Event::Failed => Self::Failed,
            _ => return None,
        })
    }
}

impl Spec {
    /// The pixels' format.
    ///
    /// # Errors
    /// The name of a format that frames do not come in.
    pub fn pixel_format(&self) -> Result<PixelFormat, String> {
        const ARGB: u32 = Format::Argb8888 as u32;
        const XRGB: u32 = Format::Xrgb8888 as u32;
        match self.format {
            ARGB => Ok(PixelFormat::Argb8888),
            XRGB => Ok(PixelFormat::Xrgb8888),
            other => {
                let name = |c: u8| if c.is_ascii_graphic() { c as char } else { '?' };
                Err(other.to_le_bytes().into_iter().map(name).collect())
            }
        }
    }

    /// Bytes of one picture in whole pages; nothing for what cannot be.
    pub fn slot_bytes(&self) -> Option<u64> {
        let widest = u64::from(self.width) * 4;
        let stride = u64::from(self.stride);
        if self.width == 0 || self.height == 0 || stride < widest || stride > 2 * widest + 4096 {
            return None;
        }
        let length = stride.checked_mul(u64::from(self.height))?;
        // A pool's size is a signed 32-bit number.
        Some(length.next_multiple_of(4096)).filter(|length| *length <= 0x7fff_f000)
    }
}

/// How far a capture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The compositor has not said what buffer it wants.
    Asked,
    /// It has; the copy was not asked for yet.
    Prepared,
    /// The compositor copies, or waits for something to change.
    Copying {
        /// Where to.
        slot: usize,
        /// That slot's first byte.
        offset: u64,
        /// Since when.
        since: Instant,
        /// Whether it waits for a change, and tells it.
        damage: bool,
    },
}

/// A capture.
#[derive(Debug)]
pub struct Capture {
    /// The object.
    pub proxy: ZwlrScreencopyFrameV1,
    /// Its number.
    pub number: u64,
    /// Whether the pointer is part of the picture.
    pub pointer: bool,
    /// How far it is.
    pub stage: Stage,
    /// The buffer that the compositor wants.
    pub spec: Option<Spec>,
    /// Whether the picture is upside down.
    pub inverted: bool,
    /// What has changed.
    pub damage: Damage,
}

impl Capture {
    /// A capture that was asked for.
    pub fn new(proxy: ZwlrScreencopyFrameV1, number: u64, pointer: bool) -> Self {
        Self {
            proxy,
            number,
            pointer,
            stage: Stage::Asked,
            spec: None,
            inverted: false,
            damage: Damage::none(),
        }
    }

    /// Notes the buffer that the compositor wants. Whether it has said all now: before version 3
    /// it says it once.
    pub fn note_spec(&mut self, spec: Spec) -> bool {
        self.spec = Some(spec);
        self.proxy.version() < 3
    }

    /// Whether changes would be told by this one only.
    pub const fn carries_damage(&self) -> bool {
        matches!(self.stage, Stage::Copying { damage: true, .. })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.proxy.destroy();
    }
}

/// How long ago the compositor showed the picture (its clock is the system's monotonic one); if
/// that makes no sense, how long ago the copy was asked for.
pub fn age(shown: Duration, since: Instant) -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let now = Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    );
    let age = now
        .checked_sub(shown)
        .filter(|age| *age < Duration::from_secs(1))
        .unwrap_or_else(|| since.elapsed());
    u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(width: u32, height: u32, stride: u32) -> Spec {
        Spec {
            format: 1,
            width,
            height,
            stride,
        }
    }

    #[test]
    fn pictures_take_whole_pages() {
        assert_eq!(spec(1920, 1080, 7680).slot_bytes(), Some(8_294_400));
        assert_eq!(spec(10, 10, 40).slot_bytes(), Some(4096));
    }

    #[test]
    fn absurd_buffers_are_none() {
        for absurd in [
            spec(0, 10, 0),
            spec(10, 0, 40),
            spec(10, 10, 39),
            spec(10, 10, u32::MAX),
            spec(u32::MAX, u32::MAX, u32::MAX),
            spec(1 << 20, 1 << 20, 1 << 22),
        ] {
            assert_eq!(absurd.slot_bytes(), None, "{absurd:?}");
        }
    }

    #[test]
    fn formats_beyond_ours_are_named() {
        let mut spec = spec(10, 10, 40);
        assert_eq!(spec.pixel_format(), Ok(PixelFormat::Xrgb8888));
        spec.format = 0;
        assert_eq!(spec.pixel_format(), Ok(PixelFormat::Argb8888));
        spec.format = u32::from_le_bytes(*b"XB24");
        assert_eq!(spec.pixel_format(), Err("XB24".to_owned()));
        spec.format = 7;
        assert_eq!(spec.pixel_format(), Err("????".to_owned()));
    }

    #[test]
    fn a_time_that_makes_no_sense_is_not_believed() {
        let since = Instant::now();
        for shown in [Duration::ZERO, Duration::MAX] {
            assert!(age(shown, since) < 1_000_000_000_000);
        }
    }
}
