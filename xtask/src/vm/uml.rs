//! The command line of a user-mode Linux VM.
//!
//! Control, script output and console are UML's serial line and its two consoles, on the descriptors 0, 1 and 2.

use std::ffi::OsString;
use std::path::Path;

use super::options::{VmOptions, size_argument};
use crate::kernels::Kernel;

/// The directory below the VM's own one in which UML keeps its pid file and management socket.
pub const RUN_DIRECTORY: &str = "uml";

/// The program and its arguments. VMM-ARGS come last; `umid=`, which UML takes once only, is left to them if they have it.
pub fn command_line(
    options: &VmOptions,
    name: &str,
    kernel: &Kernel,
    directory: &Path,
    slirp: Option<&Path>,
) -> Vec<OsString> {
    let mut words = vec![
        kernel.image.clone().into_os_string(),
        format!("mem={}", size_argument(options.ram())).into(),
    ];
    if given_name(options).is_none() {
        words.push(format!("umid={name}").into());
    }
    for (option, file) in [("uml_dir=", RUN_DIRECTORY), ("initrd=", super::INITRAMFS)] {
        let mut word = OsString::from(option);
        word.push(directory.join(file));
        words.push(word);
    }
    let rest = [
        "con=null",
        "con0=fd:2",
        "con1=fd:1",
        "ssl=null",
        "ssl0=fd:0",
        "quiet",
        "loglevel=3",
        "panic=1",
    ];
    words.extend(rest.map(OsString::from));
    if let Some(slirp) = slirp {
        let mut network = OsString::from("eth0=slirp,,");
        network.push(slirp);
        words.push(network);
    }
    words.extend(options.vmm_arguments.iter().map(OsString::from));
    words
}

/// The name that VMM-ARGS give the VM.
pub fn given_name(options: &VmOptions) -> Option<String> {
    options
        .vmm_arguments
        .iter()
        .find_map(|word| word.strip_prefix("umid="))
        .map(str::to_owned)
}
