//! A framebuffer device as the system gives it: the calls of `linux/fb.h`, and its memory.
//!
//! It judges nothing that the driver says; [`picture`](super::picture) does.
#![allow(
    unsafe_code,
    reason = "the calls of a framebuffer device have no safe form in any crate"
)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Updater, ioctl};
use vmshm_shm::{MapError, Mapping, Protection};

const GET_VARIABLE: Opcode = 0x4600;
const PUT_VARIABLE: Opcode = 0x4601;
const GET_FIXED: Opcode = 0x4602;
const PAN: Opcode = 0x4606;

/// `activate`: the values count at once.
pub const ACTIVATE_NOW: u32 = 0;
/// `activate`: say only what they would become.
pub const ACTIVATE_TEST: u32 = 2;

/// `struct fb_bitfield`: where a colour lies in a pixel.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bitfield {
    /// Its lowest bit.
    pub offset: u32,
    /// Its bits.
    pub length: u32,
    /// Whether the most significant bit is on the right.
    pub msb_right: u32,
}

/// `struct fb_var_screeninfo`: what can be changed.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(
    missing_docs,
    reason = "the names and meanings are those of linux/fb.h"
)]
pub struct Variable {
    pub xres: u32,
    pub yres: u32,
    pub xres_virtual: u32,
    pub yres_virtual: u32,
    pub xoffset: u32,
    pub yoffset: u32,
    pub bits_per_pixel: u32,
    pub grayscale: u32,
    pub red: Bitfield,
    pub green: Bitfield,
    pub blue: Bitfield,
    pub transparency: Bitfield,
    pub nonstandard: u32,
    pub activate: u32,
    pub height_millimetres: u32,
    pub width_millimetres: u32,
    pub accel_flags: u32,
    pub pixclock: u32,
    pub left_margin: u32,
    pub right_margin: u32,
    pub upper_margin: u32,
    pub lower_margin: u32,
    pub hsync_len: u32,
    pub vsync_len: u32,
    pub sync: u32,
    pub vmode: u32,
    pub rotate: u32,
    pub colorspace: u32,
    pub reserved: [u32; 4],
}

/// `struct fb_fix_screeninfo`: what follows from the mode and the hardware.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(
    missing_docs,
    reason = "the names and meanings are those of linux/fb.h"
)]
pub struct Fixed {
    pub id: [u8; 16],
    pub smem_start: core::ffi::c_ulong,
    pub smem_len: u32,
    pub kind: u32,
    pub kind_aux: u32,
    pub visual: u32,
    pub xpanstep: u16,
    pub ypanstep: u16,
    pub ywrapstep: u16,
    pub line_length: u32,
    pub mmio_start: core::ffi::c_ulong,
    pub mmio_len: u32,
    pub accel: u32,
    pub capabilities: u16,
    pub reserved: [u16; 2],
}

/// What a source needs of a framebuffer; the seam at which tests put another one.
pub trait Driver {
    /// Its memory, as this process sees it.
    type Memory: vmshm_shm::SharedMemory;

    /// What can be changed, as it is now.
    ///
    /// # Errors
    /// What the system says; `ENODEV` when the device is gone.
    fn variable(&self) -> Result<Variable, Errno>;

    /// What follows from it.
    ///
    /// # Errors
    /// As [`Driver::variable`].
    fn fixed(&self) -> Result<Fixed, Errno>;

    /// Changes it; answers with what the driver made of it.
    ///
    /// # Errors
    /// What the driver says: `EINVAL`, `ENOMEM`.
    fn put(&self, variable: Variable) -> Result<Variable, Errno>;

    /// The first `size` bytes of its memory, for reading only.
    ///
    /// # Errors
    /// [`MapError`].
    fn map(&self, size: u64) -> Result<Self::Memory, MapError>;
}

/// An open framebuffer device.
#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
}

impl Device {
    /// Opens the device at `path`.
    ///
    /// # Errors
    /// What the system says; `ENODEV` for what is no character device.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        // Readable and writable: changing a mode is forbidden to readers by some drivers.
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if !file.metadata()?.file_type().is_char_device() {
            return Err(Errno::NODEV.into());
        }
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shows the part of its memory at the offsets of `variable`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn pan(&self, variable: Variable) -> Result<(), Errno> {
        let mut variable = variable;
        // SAFETY: FBIOPAN_DISPLAY reads and writes one `fb_var_screeninfo`, which `Variable`
        // is, field by field.
        let call = unsafe { Updater::<PAN, Variable>::new(&mut variable) };
        // SAFETY: as above; the kernel keeps no pointer.
        unsafe { ioctl(&self.file, call) }
    }
}

impl Driver for Device {
    type Memory = Mapping;

    fn variable(&self) -> Result<Variable, Errno> {
        // SAFETY: FBIOGET_VSCREENINFO writes one whole `fb_var_screeninfo`, which `Variable`
        // is, field by field; every bit pattern of it is a value.
        let call = unsafe { Getter::<GET_VARIABLE, Variable>::new() };
        // SAFETY: as above; the kernel keeps no pointer.
        unsafe { ioctl(&self.file, call) }
    }

    fn fixed(&self) -> Result<Fixed, Errno> {
        // SAFETY: FBIOGET_FSCREENINFO writes one whole `fb_fix_screeninfo`, which `Fixed` is,
        // field by field; every bit pattern of it is a value.
        let call = unsafe { Getter::<GET_FIXED, Fixed>::new() };
        // SAFETY: as above; the kernel keeps no pointer.
        unsafe { ioctl(&self.file, call) }
    }

    fn put(&self, variable: Variable) -> Result<Variable, Errno> {
        let mut variable = variable;
        // SAFETY: FBIOPUT_VSCREENINFO reads and writes one `fb_var_screeninfo`, which
        // `Variable` is, field by field.
        let call = unsafe { Updater::<PUT_VARIABLE, Variable>::new(&mut variable) };
        // SAFETY: as above; the kernel keeps no pointer.
        unsafe { ioctl(&self.file, call) }?;
        Ok(variable)
    }

    fn map(&self, size: u64) -> Result<Mapping, MapError> {
        Mapping::whole(&self.file, size, Protection::Read)
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn the_structures_are_those_of_linux_fb_h() {
        assert_eq!(size_of::<Bitfield>(), 12);
        assert_eq!(size_of::<Variable>(), 160);
        assert_eq!(align_of::<Variable>(), 4);
        assert_eq!(offset_of!(Variable, bits_per_pixel), 24);
        assert_eq!(offset_of!(Variable, red), 32);
        assert_eq!(offset_of!(Variable, transparency), 68);
        assert_eq!(offset_of!(Variable, nonstandard), 80);
        assert_eq!(offset_of!(Variable, activate), 84);
        assert_eq!(offset_of!(Variable, pixclock), 100);
        assert_eq!(offset_of!(Variable, vmode), 132);
        assert_eq!(offset_of!(Variable, reserved), 144);
        if cfg!(target_pointer_width = "64") {
            assert_eq!(size_of::<Fixed>(), 80);
            assert_eq!(offset_of!(Fixed, smem_start), 16);
            assert_eq!(offset_of!(Fixed, smem_len), 24);
            assert_eq!(offset_of!(Fixed, visual), 36);
            assert_eq!(offset_of!(Fixed, ywrapstep), 44);
            assert_eq!(offset_of!(Fixed, line_length), 48);
            assert_eq!(offset_of!(Fixed, mmio_start), 56);
            assert_eq!(offset_of!(Fixed, capabilities), 72);
        }
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("succeeds");
        let error = Device::open(file.path()).expect_err("a plain file is no framebuffer");
        assert_eq!(error.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    }
}
