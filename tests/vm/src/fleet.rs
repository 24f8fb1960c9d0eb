//! Machines that several tests use one after the other: each is booted once, when it is first wanted.
//!
//! A machine that a test panicked on is ended, and the next test gets a new one. What is left at the end ends with the
//! test program.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use crate::environment;
use crate::machine::{Kind, Machine};

static IDLE: Mutex<BTreeMap<Kind, Machine>> = Mutex::new(BTreeMap::new());

/// A machine that this test has for itself.
#[derive(Debug)]
pub struct Borrowed {
    machine: Option<Machine>,
}

/// A machine of this kind with its agent running; nothing where there is nothing to boot with, which is said.
///
/// # Panics
/// When it does not boot.
#[must_use]
pub fn borrow(kind: Kind) -> Option<Borrowed> {
    if !environment::is_set_up() {
        return None;
    }
    let idle = IDLE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&kind);
    let machine = idle
        .filter(Machine::is_alive)
        .unwrap_or_else(|| Machine::boot(kind));
    Some(Borrowed {
        machine: Some(machine),
    })
}

impl Deref for Borrowed {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        self.machine.as_ref().expect("it is there until the end")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(machine) = self.machine.take() else {
            return;
        };
        if !std::thread::panicking() {
            IDLE.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(machine.kind, machine);
        }
    }
}
