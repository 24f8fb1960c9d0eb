//! The VMM of our own on KVM, for tests; skipped, and said so, where KVM cannot be used.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::environment::{own_program, skip};

/// The running VMM; it ends with its value.
#[derive(Debug)]
pub struct KvmMachine(Child);

impl KvmMachine {
    /// Boots it with so much RAM in `anonymous` memory or a `memfd`; nothing without KVM.
    ///
    /// # Panics
    /// When it fails for another reason.
    #[must_use]
    pub fn boot(backing: &str, mebibytes: u64) -> Option<Self> {
        let mut child = Command::new(own_program("kvm-vmm"))
            .args([backing, &mebibytes.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built");
        let mut said = String::new();
        let output = child.stdout.take().expect("it is piped");
        let machine = Self(child);
        BufReader::new(output)
            .read_line(&mut said)
            .expect("it says something");
        if said.trim() == "running" {
            return Some(machine);
        }
        assert!(said.starts_with("KVM cannot be used"), "{said}");
        skip(said.trim());
        None
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for KvmMachine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
