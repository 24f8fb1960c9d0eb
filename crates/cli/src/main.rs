//! The vmshm command: shares memory with running virtual machines.
fn main() {}
