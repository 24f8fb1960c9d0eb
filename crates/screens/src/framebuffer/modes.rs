//! The modes of a framebuffer: which there are, and setting one.
//!
//! A driver that takes any size (`vfb` does) is given what is asked for, with 32 bits a pixel,
//! as far as its memory reaches. It refuses the rest, and says what fits.

use rustix::io::Errno;
use vmshm_channel::Size;
use vmshm_link::frames::MAX_SIDE;

use super::device::{ACTIVATE_NOW, ACTIVATE_TEST, Bitfield, Driver, Fixed, Variable};

/// Sizes that are offered where they fit.
const COMMON: [(u32, u32); 14] = [
    (640, 480),
    (800, 600),
    (1024, 768),
    (1280, 720),
    (1280, 800),
    (1280, 1024),
    (1366, 768),
    (1440, 900),
    (1600, 900),
    (1680, 1050),
    (1920, 1080),
    (1920, 1200),
    (2560, 1440),
    (3840, 2160),
];

/// Whether the driver takes other sizes than it has now: it is asked, and changes nothing.
pub fn takes_sizes(driver: &impl Driver, variable: &Variable, fixed: &Fixed) -> bool {
    // Half of what there is: it fits, and is a multiple of what drivers round to.
    let (width, height) = (variable.xres / 16 * 8, variable.yres / 2);
    if width == 0 || height == 0 || !fits(fixed, width, height) {
        return false;
    }
    let asked = Variable {
        activate: ACTIVATE_TEST,
        ..with_size(variable, width, height, 1)
    };
    let taken = driver.put(asked);
    taken.is_ok_and(|taken| (taken.xres, taken.yres) == (width, height))
}

/// The mode that it has now.
#[must_use]
pub const fn current(variable: &Variable) -> Size {
    Size {
        width: variable.xres,
        height: variable.yres,
        refresh_millihertz: 0,
    }
}

/// The modes to offer: the present one, and common ones where sizes can be set.
#[must_use]
pub fn offered(variable: &Variable, fixed: &Fixed, takes_sizes: bool) -> Vec<Size> {
    let now = current(variable);
    let others = COMMON
        .iter()
        .filter(|(width, height)| takes_sizes && fits(fixed, *width, *height))
        .map(|(width, height)| Size {
            width: *width,
            height: *height,
            refresh_millihertz: 0,
        })
        .filter(|size| *size != now);
    std::iter::once(now).chain(others).collect()
}

/// Sets a mode with 32 bits a pixel.
///
/// # Errors
/// Why not, and what can be had. The mode is then what it was.
pub fn set(driver: &impl Driver, wanted: Size) -> Result<(), String> {
    let failed = |error: Errno| format!("the device does not answer: {error}");
    let before = driver.variable().map_err(failed)?;
    let fixed = driver.fixed().map_err(failed)?;
    let (width, height) = (wanted.width, wanted.height);
    if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
        return Err(format!(
            "{width}x{height} is no size; {}",
            what_fits(&before, &fixed, true)
        ));
    }
    if !fits(&fixed, width, height) {
        return Err(format!(
            "{width}x{height} needs {} bytes of the device's memory, which has {}; {}",
            bytes(width, height),
            fixed.smem_len,
            what_fits(&before, &fixed, true)
        ));
    }
    // A guest that pans goes on doing so, if there is room.
    let had = before.yres_virtual / before.yres.max(1);
    let pictures = u64::from(fixed.smem_len) / bytes(width, height).max(1);
    let pictures = had.clamp(1, u32::try_from(pictures).unwrap_or(u32::MAX).max(1));
    let asked = Variable {
        activate: ACTIVATE_NOW,
        ..with_size(&before, width, height, pictures)
    };
    let is_as_asked =
        |taken: &Variable| (taken.xres, taken.yres, taken.bits_per_pixel) == (width, height, 32);
    let test = Variable {
        activate: ACTIVATE_TEST,
        ..asked
    };
    let refusal = match driver.put(test) {
        Ok(taken) if is_as_asked(&taken) => match driver.put(asked) {
            Ok(taken) if is_as_asked(&taken) => return Ok(()),
            Ok(_) => {
                let back = Variable {
                    activate: ACTIVATE_NOW,
                    ..before
                };
                let _ = driver.put(back);
                "the driver makes something else of it".to_owned()
            }
            Err(error) => format!("the driver says: {error}"),
        },
        Ok(taken) => format!(
            "the driver would make {}x{} with {} bits a pixel of it",
            taken.xres, taken.yres, taken.bits_per_pixel
        ),
        Err(error) => format!("the driver says: {error}"),
    };
    let sizes = takes_sizes(driver, &before, &fixed);
    Err(format!(
        "{width}x{height} cannot be set: {refusal}; {}",
        what_fits(&before, &fixed, sizes)
    ))
}

/// What can be had, in words.
fn what_fits(variable: &Variable, fixed: &Fixed, takes_sizes: bool) -> String {
    if !takes_sizes {
        let (width, height) = (variable.xres, variable.yres);
        return format!("its driver has {width}x{height} only");
    }
    let common: Vec<String> = offered(variable, fixed, true)
        .iter()
        .filter(|size| fits(fixed, size.width, size.height))
        .map(|size| format!("{}x{}", size.width, size.height))
        .collect();
    let pixels = fixed.smem_len / 4;
    format!(
        "sizes of up to {pixels} pixels fit, for example {}",
        common.join(", ")
    )
}

/// The present settings with another size, 32 bits a pixel, and memory for `pictures` below
/// each other.
fn with_size(variable: &Variable, width: u32, height: u32, pictures: u32) -> Variable {
    let colour = |offset| Bitfield {
        offset,
        length: 8,
        msb_right: 0,
    };
    Variable {
        xres: width,
        yres: height,
        xres_virtual: width,
        yres_virtual: height.saturating_mul(pictures),
        xoffset: 0,
        yoffset: 0,
        bits_per_pixel: 32,
        grayscale: 0,
        // What is usual; drivers with another layout put theirs.
        red: colour(16),
        green: colour(8),
        blue: colour(0),
        transparency: Bitfield::default(),
        nonstandard: 0,
        ..*variable
    }
}

fn fits(fixed: &Fixed, width: u32, height: u32) -> bool {
    bytes(width, height) <= u64::from(fixed.smem_len)
}

fn bytes(width: u32, height: u32) -> u64 {
    u64::from(width) * u64::from(height) * 4
}
