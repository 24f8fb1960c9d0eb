//! What a framebuffer shows, judged from what its driver says: where the picture lies in the
//! device's memory, and in which layout.
//!
//! It refuses, by name, every layout that frames do not come in, and pictures that do not lie
//! in the device's memory.

use vmshm_link::frames::{MAX_PIXEL_SLOTS, MAX_SIDE, PixelFormat, Place};
use vmshm_shm::PAGE_SIZE;

use super::device::{Bitfield, Fixed, Variable};

const PACKED_PIXELS: u32 = 0;
const TRUE_COLOUR: u32 = 2;
const DIRECT_COLOUR: u32 = 4;
/// Bits in `vmode`: the picture goes on at the top of the memory.
const WRAPS: u32 = 256;

/// Why a framebuffer's picture cannot be shown as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its pixels are laid out in a way that frames do not come in.
    #[error("its pixels are {0}; frames come with 32 bits a pixel, 8 for each colour")]
    Layout(String),
    /// The driver says what cannot be.
    #[error("its driver says what cannot be: {0}")]
    Impossible(&'static str),
}

/// Where a framebuffer's picture lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// The picture's first byte in the device's memory.
    pub offset: u64,
    /// How pixels are laid out.
    pub format: PixelFormat,
    /// Bytes of the device's memory, in whole pages.
    pub memory: u64,
    /// Columns and rows of the device's memory left of and above the picture.
    pub pan: (u32, u32),
    /// Whether there is room for two pictures.
    pub room_for_two: bool,
}

impl Picture {
    /// Judges what a driver says.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn new(variable: &Variable, fixed: &Fixed) -> Result<Self, Unfit> {
        let format = format(variable, fixed)?;
        let (width, height) = (variable.xres, variable.yres);
        let sides = 1..=MAX_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) {
            return Err(Unfit::Impossible("its size"));
        }
        let stride = fixed.line_length;
        let columns = u64::from(variable.xoffset) + u64::from(width);
        if !stride.is_multiple_of(4) || columns * 4 > u64::from(stride) {
            return Err(Unfit::Impossible("the length of its rows"));
        }
        if variable.vmode & WRAPS != 0 && variable.yoffset != 0 {
            return Err(Unfit::Impossible(
                "a picture that goes on at the memory's top",
            ));
        }
        // The memory that is mapped begins at a page; the picture's may begin inside it.
        let before = fixed.smem_start & (PAGE_SIZE - 1);
        let offset = before
            + u64::from(variable.yoffset) * u64::from(stride)
            + u64::from(variable.xoffset) * 4;
        let bytes = before + u64::from(fixed.smem_len);
        let picture = Self {
            width,
            height,
            stride,
            offset,
            format,
            memory: bytes.next_multiple_of(PAGE_SIZE),
            pan: (variable.xoffset, variable.yoffset),
            room_for_two: u64::from(variable.yres_virtual) >= 2 * u64::from(height)
                && fixed.ypanstep != 0,
        };
        let place = picture.place();
        place
            .check(bytes)
            .map_err(|_| Unfit::Impossible("a picture beyond its memory"))?;
        Ok(picture)
    }

    /// Which of the slots the picture lies in: two that do not overlap are in different ones.
    #[must_use]
    pub fn slot(&self) -> usize {
        let slot = self.pan.1 / self.height.max(1);
        usize::try_from(slot).unwrap_or(usize::MAX) % MAX_PIXEL_SLOTS
    }

    /// As a frame's place; the region's number is for the outlet to fill in.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            region: 0,
            slot: self.slot(),
            offset: self.offset,
            width: self.width,
            height: self.height,
            stride: self.stride,
            format: self.format,
        }
    }

    /// Whether it differs from `other` only in where in the memory it lies.
    #[must_use]
    pub fn is_panned(&self, other: &Self) -> bool {
        let elsewhere = Self {
            offset: other.offset,
            pan: other.pan,
            ..*self
        };
        elsewhere == *other
    }
}

/// How pixels are laid out.
fn format(variable: &Variable, fixed: &Fixed) -> Result<PixelFormat, Unfit> {
    let bits = variable.bits_per_pixel;
    let at = |offset| Bitfield {
        offset,
        length: 8,
        msb_right: 0,
    };
    let layout = |what: String| Err(Unfit::Layout(what));
    if fixed.kind != PACKED_PIXELS || variable.nonstandard != 0 {
        return layout(format!("in planes or otherwise unusual, {bits} bits each"));
    }
    if bits != 32 || variable.grayscale != 0 {
        let colours = match (variable.grayscale, fixed.visual) {
            (0, TRUE_COLOUR | DIRECT_COLOUR) => "",
            (0, _) => ", as numbers in a palette",
            _ => ", gray or a video format",
        };
        return layout(format!("{bits} bits each{colours}"));
    }
    if fixed.visual != TRUE_COLOUR && fixed.visual != DIRECT_COLOUR {
        return layout("32 bits each, but no true colours".to_owned());
    }
    match (variable.red, variable.green, variable.blue) {
        (red, green, blue) if (red, green, blue) == (at(16), at(8), at(0)) => {
            Ok(PixelFormat::Xrgb8888)
        }
        (red, green, blue) if (red, green, blue) == (at(0), at(8), at(16)) => {
            Ok(PixelFormat::Xbgr8888)
        }
        (red, green, blue) => layout(format!(
            "32 bits each with {} bits of red at {}, {} of green at {}, {} of blue at {}",
            red.length, red.offset, green.length, green.offset, blue.length, blue.offset
        )),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What `vfb` says, measured on Linux 6.12.
    pub fn vfb(width: u32, height: u32, memory: u32) -> (Variable, Fixed) {
        let at = |offset| Bitfield {
            offset,
            length: 8,
            msb_right: 0,
        };
        let variable = Variable {
            xres: width,
            yres: height,
            xres_virtual: width,
            yres_virtual: height,
            bits_per_pixel: 32,
            red: at(0),
            green: at(8),
            blue: at(16),
            transparency: at(24),
            ..Variable::default()
        };
        let fixed = Fixed {
            smem_len: memory,
            visual: TRUE_COLOUR,
            ypanstep: 1,
            line_length: width * 4,
            ..Fixed::default()
        };
        (variable, fixed)
    }

    #[test]
    fn a_picture_lies_where_it_is_panned_to() {
        let (mut variable, fixed) = vfb(640, 480, 640 * 480 * 8);
        variable.yres_virtual = 960;
        let first = Picture::new(&variable, &fixed).expect("fits");
        assert_eq!((first.offset, first.slot()), (0, 0));
        assert_eq!(first.format, PixelFormat::Xbgr8888);
        assert!(first.room_for_two);
        variable.yoffset = 480;
        let second = Picture::new(&variable, &fixed).expect("fits");
        assert_eq!((second.offset, second.slot()), (640 * 480 * 4, 1));
        assert!(second.is_panned(&first));
        variable.yoffset = 481;
        assert_eq!(
            Picture::new(&variable, &fixed),
            Err(Unfit::Impossible("a picture beyond its memory"))
        );
    }

    #[test]
    fn memory_that_begins_inside_a_page_moves_the_picture() {
        let (variable, mut fixed) = vfb(16, 16, 16 * 16 * 4);
        fixed.smem_start = 0x1000_0800;
        let picture = Picture::new(&variable, &fixed).expect("fits");
        assert_eq!((picture.offset, picture.memory), (0x800, 4096));
    }

    #[test]
    fn other_layouts_are_refused_by_name() {
        let (mut variable, fixed) = vfb(640, 480, 1 << 22);
        variable.bits_per_pixel = 16;
        let refused = Picture::new(&variable, &fixed).expect_err("is refused");
        assert!(refused.to_string().contains("16 bits"), "{refused}");
        let (mut variable, fixed) = vfb(640, 480, 1 << 22);
        variable.red.length = 10;
        let refused = Picture::new(&variable, &fixed).expect_err("is refused");
        assert!(refused.to_string().contains("10 bits of red"), "{refused}");
    }

    #[test]
    fn what_no_driver_says_never_panics_and_never_leaves_the_memory() {
        let extremes = [0, 1, 479, 0x7fff, u32::MAX];
        for yoffset in extremes {
            for line_length in extremes {
                for xres in extremes {
                    let (mut variable, mut fixed) = vfb(640, 480, 1 << 22);
                    variable.xres = xres;
                    variable.yoffset = yoffset;
                    variable.xoffset = yoffset;
                    fixed.line_length = line_length;
                    if let Ok(picture) = Picture::new(&variable, &fixed) {
                        assert!(picture.place().check(1 << 22).is_ok());
                    }
                }
            }
        }
    }
}
