//! The smallest VMM there is: one virtual processor that counts, on KVM, for tests of what finds VMMs by their KVM
//! descriptor alone.
//!
//! `kvm-vmm memfd|anonymous MIB` says `running` and runs until it is killed. Where KVM cannot be used it says why and
//! ends with status 77.
#![allow(
    unsafe_code,
    reason = "KVM takes guest RAM as an address of this process"
)]
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::process::ExitCode;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};

/// Where the processor starts.
const CODE: usize = 0x1000;
/// Counts for ever: `inc dword [0x2000]; jmp` back, in real mode.
const COUNT: [u8; 7] = [0x66, 0xff, 0x06, 0x00, 0x20, 0xeb, 0xf9];
/// The status that says: not here.
const CANNOT: u8 = 77;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [backing, mebibytes] = arguments.as_slice() else {
        panic!("kvm-vmm memfd|anonymous MIB");
    };
    let mebibytes: usize = mebibytes.parse().expect("MIB is a number");
    match run(backing == "memfd", mebibytes << 20) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("KVM cannot be used: {error}");
            ExitCode::from(CANNOT)
        }
    }
}

/// Runs the machine; comes back only with the reason why that is not possible.
fn run(memfd: bool, length: usize) -> Result<(), kvm_ioctls::Error> {
    let vm = Kvm::new()?.create_vm()?;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let start = if memfd {
        let file = memfd_create("guest-ram", MemfdFlags::CLOEXEC).expect("there are memory files");
        ftruncate(&file, length as u64).expect("it can grow");
        // SAFETY: a new mapping at a place that the kernel chooses takes nothing away from anybody.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        // The descriptor stays open, as VMMs keep it.
        let _ = std::os::fd::IntoRawFd::into_raw_fd(file);
        start
    } else {
        // SAFETY: as above.
        unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE) }
    };
    let start = start.expect("there is memory").cast::<u8>();
    let code = start.wrapping_add(CODE);
    // SAFETY: the mapping is longer than CODE and the code, writable, and nobody else uses it yet.
    unsafe { code.copy_from_nonoverlapping(COUNT.as_ptr(), COUNT.len()) };
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: length as u64,
        userspace_addr: start.expose_provenance() as u64,
    };
    // SAFETY: the mapping is never taken away, and this process does not touch it any more.
    unsafe { vm.set_user_memory_region(slot) }?;
    let mut processor = vm.create_vcpu(0)?;
    let mut segments = processor.get_sregs()?;
    segments.cs.base = 0;
    segments.cs.selector = 0;
    processor.set_sregs(&segments)?;
    let mut registers = processor.get_regs()?;
    registers.rip = CODE as u64;
    registers.rflags = 2;
    processor.set_regs(&registers)?;
    println!("running");
    loop {
        match processor.run() {
            Ok(VcpuExit::Intr) => {}
            Ok(exit) => panic!("the guest left its loop: {exit:?}"),
            Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => {}
            Err(error) if error.errno() == rustix::io::Errno::AGAIN.raw_os_error() => {}
            Err(error) => return Err(error),
        }
    }
}
