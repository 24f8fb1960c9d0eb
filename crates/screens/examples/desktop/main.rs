//! Tries a source process on a real wlroots compositor: plays the agent, with memfds for regions,
//! and a reader of frames. For a guest that runs sway, foot and grim; run by the desktop's user.
//!
//! ```text
//! desktop find               as root: what is found
//! desktop try SOCKET [KEY=VALUE …]   as the user: adds, watches, compares with grim, types, clicks
//! ```
//!
//! Refuses nothing: it ends with a panic at the first thing that is not as it should be.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod agent;
mod target;
mod trials;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["find"] => {
            let start = std::time::Instant::now();
            let found = vmshm_screens::wlroots::find();
            let first = start.elapsed();
            for _ in 0..100 {
                assert!(!vmshm_screens::wlroots::find().is_empty());
            }
            let again = (start.elapsed() - first) / 100;
            println!(
                "found {found:#?}\nothers {:?}",
                vmshm_screens::wlroots::others()
            );
            println!("the first search took {first:?}, each one after it {again:?}");
            for one in found {
                print!("TRY {} {} {}", one.uid, one.gid, one.socket);
                for (key, value) in one.environment {
                    print!(" {key}={value}");
                }
                println!();
            }
        }
        ["source"] => {
            let channel = vmshm_channel::inherited().unwrap();
            if let Err(error) = vmshm_screens::serve(channel) {
                eprintln!("source: {error}");
                std::process::exit(1);
            }
        }
        ["target", socket, output] => target::run(socket, output),
        ["try", socket, environment @ ..] => trials::run(socket, environment),
        _ => panic!("unknown arguments: {arguments:?}"),
    }
}
