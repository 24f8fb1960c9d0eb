//! What screens cost, measured on real guests; `cargo xtask bench display` runs it and judges.
//!
//! Prints a JSON array of rows, each with the figures of every round. `display-bench vnc-client PORT SECONDS` is the
//! peer's end: a VNC client that counts.

mod rows;
mod vnc;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["vnc-client", port, seconds] = words[..] {
        return match vnc::run(port, seconds) {
            Ok(seen) => {
                println!("{seen}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        };
    }
    let quick = words.contains(&"--quick");
    let names: Vec<&str> = words
        .into_iter()
        .filter(|word| *word != "--quick")
        .collect();
    println!("{}", rows::measure(&names, quick));
    ExitCode::SUCCESS
}
