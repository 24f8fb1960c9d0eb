//! The input devices that are made in the guest: an absolute pointer, a relative one, and a
//! keyboard. They go when this value does.

use std::fs::OpenOptions;
use std::io;

use evdev::uinput::VirtualDevice;
use evdev::{
    AbsInfo, AbsoluteAxisCode, AttributeSet, BusType, InputEvent, InputId, KeyCode,
    RelativeAxisCode, UinputAbsSetup,
};

/// Where a user makes input devices.
const UINPUT: &str = "/dev/uinput";
/// The greatest value of an absolute axis.
pub const AXIS_MAX: i32 = 65_535;
/// Buttons of a pointer, `BTN_LEFT` to `BTN_TASK`.
const BUTTONS: std::ops::RangeInclusive<u16> = 0x110..=0x117;
/// Keys of keyboards: between them lie buttons of pointers, joysticks and pens, which would
/// make the keyboard look like one of those.
const KEYS: [std::ops::RangeInclusive<u16>; 4] =
    [1..=0xff, 0x160..=0x21f, 0x224..=0x2bf, 0x2e8..=0x2fe];

/// One of the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// The pointer that is told where to be.
    Absolute,
    /// The pointer that is told where to go.
    Relative,
    /// The keyboard.
    Keyboard,
}

/// Whether a code is a button of a pointer.
#[must_use]
pub fn is_button(code: u16) -> bool {
    BUTTONS.contains(&code)
}

/// Whether a code is a key of a keyboard.
#[must_use]
pub fn is_key(code: u16) -> bool {
    KEYS.iter().any(|keys| keys.contains(&code))
}

/// Where events go; the seam at which tests look.
pub trait Sink {
    /// Gives a device events that belong together.
    ///
    /// # Errors
    /// What the system says.
    fn emit(&mut self, which: Which, events: &[InputEvent]) -> io::Result<()>;
}

/// The devices.
#[derive(Debug)]
pub struct Devices {
    absolute: VirtualDevice,
    relative: VirtualDevice,
    keyboard: VirtualDevice,
}

impl Devices {
    /// Whether the system lets this process make devices.
    #[must_use]
    pub fn can_be_made() -> bool {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(UINPUT).is_ok()
    }

    /// Makes them.
    ///
    /// # Errors
    /// What the system says.
    pub fn make() -> io::Result<Self> {
        let id = |product| InputId::new(BusType::BUS_VIRTUAL, 0x766d, product, 1);
        let buttons: AttributeSet<KeyCode> = BUTTONS.map(KeyCode).collect();
        let wheels = [
            RelativeAxisCode::REL_WHEEL,
            RelativeAxisCode::REL_HWHEEL,
            RelativeAxisCode::REL_WHEEL_HI_RES,
            RelativeAxisCode::REL_HWHEEL_HI_RES,
        ];
        let motion = [RelativeAxisCode::REL_X, RelativeAxisCode::REL_Y];
        let keys: AttributeSet<KeyCode> = KEYS.into_iter().flatten().map(KeyCode).collect();
        let axis = |code| UinputAbsSetup::new(code, AbsInfo::new(0, 0, AXIS_MAX, 0, 0, 0));
        let absolute = VirtualDevice::builder()?
            .name("vmshm absolute pointer")
            .input_id(id(1))
            .with_keys(&buttons)?
            .with_absolute_axis(&axis(AbsoluteAxisCode::ABS_X))?
            .with_absolute_axis(&axis(AbsoluteAxisCode::ABS_Y))?
            .with_relative_axes(&wheels.into_iter().collect::<AttributeSet<_>>())?
            .build()?;
        let relative = VirtualDevice::builder()?
            .name("vmshm pointer")
            .input_id(id(2))
            .with_keys(&buttons)?
            .with_relative_axes(
                &motion
                    .into_iter()
                    .chain(wheels)
                    .collect::<AttributeSet<_>>(),
            )?
            .build()?;
        let keyboard = VirtualDevice::builder()?
            .name("vmshm keyboard")
            .input_id(id(3))
            .with_keys(&keys)?
            .build()?;
        Ok(Self {
            absolute,
            relative,
            keyboard,
        })
    }
}

impl Sink for Devices {
    fn emit(&mut self, which: Which, events: &[InputEvent]) -> io::Result<()> {
        match which {
            Which::Absolute => self.absolute.emit(events),
            Which::Relative => self.relative.emit(events),
            Which::Keyboard => self.keyboard.emit(events),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_buttons_are_told_apart() {
        for button in [0x110, 0x112, 0x117] {
            assert!(is_button(button) && !is_key(button));
        }
        // KEY_ESC, KEY_A, KEY_F24, KEY_OK, KEY_FN, and the last key.
        for key in [1, 30, 194, 0x160, 0x1d0, 0x2bf] {
            assert!(is_key(key) && !is_button(key));
        }
        // BTN_TOUCH, BTN_JOYSTICK, BTN_DPAD_UP, BTN_TRIGGER_HAPPY, nothing.
        for neither in [0, 0x14a, 0x120, 0x220, 0x2c0, 0x2ff, 0x300, u16::MAX] {
            assert!(!is_key(neither) && !is_button(neither), "{neither:#x}");
        }
    }
}
