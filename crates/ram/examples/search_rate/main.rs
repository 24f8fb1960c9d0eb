//! How fast guest RAM is searched (`measure.rs`). It measures with a memory file of its own,
//! so on Linux alone; elsewhere it says so.

#[cfg(target_os = "linux")]
mod measure;

#[cfg(target_os = "linux")]
fn main() -> Result<(), measure::Failure> {
    measure::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("search_rate measures on Linux alone");
}
