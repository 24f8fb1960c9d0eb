//! vmshm on real virtual machines, from the command line as users type it.
//!
//! Each module holds the tests of one promise. The machines come from `vmshm_vm_tests::fleet`.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod pipes;
