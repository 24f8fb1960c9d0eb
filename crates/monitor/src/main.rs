//! `vmshm-monitor`: shows a screen of a guest. `vmshm display` starts it and hands it the
//! frames' memory over its standard input; it knows no VM and no guest RAM beyond that.

fn main() {}
