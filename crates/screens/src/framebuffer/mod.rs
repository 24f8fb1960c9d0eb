//! A framebuffer device (`/dev/fbN`).
//!
//! With a driver whose memory is the guest's RAM (the stock `vfb`) hosts see the very pages
//! that the guest draws into, and no process of ours copies a pixel; the agent finds where
//! those pages are. Where it cannot, changed tiles are copied into pinned memory.
//!
//! Nobody reports what is drawn, so the picture is read and compared at a rate that follows
//! what happens: `tiles`, `pace`. Those reads are counted as bytes touched. `pan` judges
//! whether a guest keeps pictures apart. Nothing is read while nobody watches.
//! It refuses layouts that frames do not come in, and says which mode helps.

pub mod device;
mod modes;
mod pace;
mod pan;
pub mod picture;
#[cfg(test)]
mod play;
mod service;
mod tiles;
mod watch;

use std::path::Path;

use vmshm_channel::Channel;

use self::device::Device;
use self::service::{About, Service};
use crate::SourceError;
use crate::uinput::Injector;

/// The framebuffer devices that there are now: paths, in the order of their numbers.
#[must_use]
pub fn find() -> Vec<String> {
    find_in(Path::new("/dev"))
}

fn find_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.strip_prefix("fb")?.parse::<u32>().ok()
    };
    let mut numbers: Vec<u32> = entries.filter_map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let path = |number| directory.join(format!("fb{number}"));
    let paths = numbers.into_iter().map(path);
    paths
        .map(|path| path.to_string_lossy().into_owned())
        .collect()
}

/// Delivers the screen of `device`. With `input`, what users do reaches the guest by its
/// `uinput` devices, if it has such.
///
/// # Errors
/// [`SourceError`].
pub fn serve(channel: &mut Channel, device: &str, input: bool) -> Result<(), SourceError> {
    let path = Path::new(device);
    let opened = Device::open(path).map_err(|error| SourceError::Failed {
        message: format!("{device} cannot be opened: {error}"),
        hint: None,
    })?;
    let injector = input.then(Injector::find).flatten();
    let about = About::of(path, &opened);
    Service::new(channel, &opened, about, injector)?.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_in_the_order_of_their_numbers() {
        let directory = tempfile::tempdir().expect("succeeds");
        for name in ["fb10", "fb2", "fb0", "fbcon", "fb", "tty0", "xfb1"] {
            std::fs::write(directory.path().join(name), "").expect("succeeds");
        }
        let expected = ["fb0", "fb2", "fb10"].map(|name| directory.path().join(name));
        let expected = expected.map(|path| path.to_string_lossy().into_owned());
        assert_eq!(find_in(directory.path()), expected);
        assert!(find_in(&directory.path().join("none")).is_empty());
    }
}
