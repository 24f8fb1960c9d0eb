//! `vmware-vmx.exe`: stands in for a VMM on Windows, for tests. It holds guest RAM as VMware does (a section with or
//! without a name, split around the PCI hole) or as QEMU does (memory of its own), with decoys beside it, and plays a
//! guest with its agent in there. Copied to another name it stands in for another VMM.
//!
//! It says what it is in a JSON line, takes orders on standard input and answers each with another, and ends when its
//! input ends. It runs no VM, and runs on Windows only.

#[cfg(windows)]
mod arguments;
#[cfg(windows)]
mod os;
#[cfg(windows)]
mod stage;

#[cfg(windows)]
fn main() -> std::process::ExitCode {
    stage::run()
}

#[cfg(not(windows))]
fn main() -> std::process::ExitCode {
    eprintln!("error: this stands in for a VMM on Windows, and runs there only");
    std::process::ExitCode::from(2)
}
