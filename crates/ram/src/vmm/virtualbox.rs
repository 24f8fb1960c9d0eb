//! Recognises VirtualBox: a process with its driver open that starts a VM. Guest RAM is the
//! kernel driver's; the process maps parts of it now and then, and nobody can read it from
//! outside. So no block is ever reported, and the reason is.

use std::path::Path;

use super::candidate::{Candidate, Draft};
use super::{Evidence, Machine, VmmKind};
use crate::access::Obstacle;
use crate::os::LISTS_FILES;

const DRIVERS: [&str; 2] = ["/dev/vboxdrv", "/dev/vboxdrvu"];
/// Both front ends are told which VM to run by one of these.
const START: [&str; 3] = ["--startvm", "-startvm", "-s"];

/// Judges one process.
pub(super) fn recognise(candidate: &Candidate) -> Option<Draft> {
    let started = candidate
        .words
        .iter()
        .any(|word| START.contains(&word.as_str()));
    if !started {
        return None;
    }
    let mut evidence = vec![Evidence::CommandLine];
    // The front ends are small and may have other names; the driver tells.
    if DRIVERS.iter().any(|driver| candidate.holds(driver)) {
        evidence.push(Evidence::DriverDescriptor);
    } else if ["VBoxHeadless", "VirtualBoxVM"].contains(&candidate.program_name())
        && candidate.is_called_what_it_says()
        && (!LISTS_FILES || candidate.mappings().is_err())
    {
        evidence.push(candidate.by_name());
    } else {
        return None;
    }
    let name = ["--comment", "-comment"]
        .iter()
        .find_map(|option| candidate.option(option));
    Some(Draft {
        kind: VmmKind::VirtualBox,
        name: name.map(str::to_owned),
        ram_bytes: configured(candidate).unwrap_or(0),
        blocks: Vec::new(),
        evidence,
        machine: Machine::Unknown,
        told_shared: false,
        barred: Some(Obstacle::KernelDriver { driver: "vboxdrv" }),
    })
}

/// The RAM that the VM's settings ask for. They lie two directories above its log, which
/// the process has open: `NAME/NAME.vbox` and `NAME/Logs/VBox.log`.
fn configured(candidate: &Candidate) -> Option<u64> {
    let log = candidate
        .descriptors()
        .iter()
        .find(|descriptor| descriptor.target.ends_with("/Logs/VBox.log"))?;
    let directory = Path::new(&log.target).parent()?.parent()?;
    let mut file = directory.join(directory.file_name()?).into_os_string();
    file.push(".vbox");
    let settings = candidate.process.text_file(file.as_ref())?;
    let (_, after) = settings.split_once("RAMSize=\"")?;
    let mebibytes: u64 = after.split_once('"')?.0.parse().ok()?;
    mebibytes.checked_mul(1 << 20)
}
