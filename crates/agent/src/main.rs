//! The guest daemon: pins memory, announces it, hands it out.
fn main() {}
