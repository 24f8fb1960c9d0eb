//! vmshm on real virtual machines, from the command line as users type it.
//!
//! Each module holds the tests of one promise. The machines come from `vmshm_vm_tests::fleet`.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod agent_faults;
mod bad_input;
mod bochs;
mod booting;
mod compaction;
mod decoys;
mod doorbell;
mod dumps;
mod extents;
mod holes;
mod host_faults;
mod kvm;
mod link_faults;
mod links;
mod listing;
mod machine_faults;
mod nested;
mod odd_processes;
mod pinning;
mod pipes;
mod programs;
mod quarantine;
mod recognition;
mod rendezvous;
mod restarts;
mod search;
mod syscalls;
mod watching;
mod without_agent;
