//! A guest whose kernel the emulator tripped is booted again, so that no test has to know of it.

use std::os::unix::fs::PermissionsExt;

use vmshm_vm_tests::command_line;
use vmshm_vm_tests::environment::is_set_up;
use vmshm_vm_tests::machine::{Kind, Machine};

#[test]
fn a_guest_that_the_emulator_tripped_is_booted_again() {
    if !is_set_up() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (tripped, wrapper) = (
        directory.path().join("tripped"),
        directory.path().join("qemu-system-x86_64"),
    );
    let program = command_line::find("qemu-system-x86_64").expect("QEMU is there");
    let text = format!(
        "#!/bin/sh\nif mkdir '{}' 2>/dev/null; then\n\
         echo '[    3.241790] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI' >&2\nexit 1\nfi\nexec '{}' \"$@\"\n",
        tripped.display(),
        program.display()
    );
    std::fs::write(&wrapper, text).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", directory.path().display());
    let kind = Kind::QemuPrivate(1);
    let machine = Machine::boot_in(
        kind,
        "tripped",
        (&["--system", "busybox", "--no-agent"], &[]),
        None,
        &[("PATH", path)],
    );
    assert!(tripped.is_dir(), "the first boot failed");
    assert!(
        machine.console().contains("booting the guest again"),
        "{}",
        machine.console()
    );
}
