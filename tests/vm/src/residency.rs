//! How much memory the guest's RAM takes on the host: what a VMM holds of its own, and what lies in the files behind it.

use std::os::unix::fs::MetadataExt;

use vmshm_ram::{RamBlock, Vmm};

/// The bytes of guest RAM that exist on the host.
///
/// # Panics
/// When the VMM cannot be looked at.
#[must_use]
pub fn of(vmm: &Vmm) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", vmm.pid));
    let smaps = smaps.expect("the VMM can be looked at");
    let private = vmm.blocks.iter().filter(|block| !block.backing.is_shared());
    let own: u64 = private.map(|block| anonymous(&smaps, block)).sum();
    let files: u64 = vmm.blocks.iter().map(|block| in_file(vmm.pid, block)).sum();
    own + files
}

/// The VMM's own pages in the mappings of a block. Pages of zeros that the kernel shares among all do not count.
fn anonymous(smaps: &str, block: &RamBlock) -> u64 {
    let range = block.start.0..block.start.0 + block.length;
    let mut inside = false;
    let mut kibibytes = 0;
    for line in smaps.lines() {
        let start = line.split_once('-').and_then(|(start, rest)| {
            rest.contains(' ').then_some(())?;
            u64::from_str_radix(start, 16).ok()
        });
        if let Some(start) = start {
            inside = range.contains(&start);
        } else if inside && let Some(number) = line.strip_prefix("Anonymous:") {
            let number = number.trim().trim_end_matches(" kB");
            kibibytes += number.parse::<u64>().expect("a number");
        }
    }
    kibibytes << 10
}

/// What the file behind a block takes; nothing where there is none.
fn in_file(pid: u32, block: &RamBlock) -> u64 {
    let Some(file) = block.file else { return 0 };
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the VMM can be looked at");
    let found = open.flatten().find_map(|descriptor| {
        let metadata = std::fs::metadata(descriptor.path()).ok()?;
        (metadata.ino() == file.inode && device(metadata.dev()) == file.device).then_some(metadata)
    });
    found.expect("the VMM holds its RAM's file").blocks() * 512
}

fn device(number: u64) -> (u32, u32) {
    (rustix::fs::major(number), rustix::fs::minor(number))
}
