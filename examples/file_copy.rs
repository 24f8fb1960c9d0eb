//! Copies a file from one side to the other through a stream, and proves that it is the same.
//!
//! ```text
//! host$  cargo run --release -p vmshm-examples --example file_copy -- host web --send FILE
//! guest$ file_copy guest --to FILE
//! ```
//!
//! Or the other way round. The sender states the length first and the SHA-256 last; the
//! receiver answers with the SHA-256 of what it has written.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use sha2::{Digest, Sha256};
use vmshm_examples::{Failure, Options, Place, in_guest, on_host, run};
use vmshm_guest::Agent;
use vmshm_guest::endpoint::{Connection, RegionOptions, Side, Stream};
use vmshm_host::Vm;

/// Bytes that are read from a file at once.
const CHUNK: usize = 1 << 18;

#[derive(Debug, clap::Args)]
struct FileCopy {
    /// The file that this side sends.
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "to")]
    send: Option<PathBuf>,
    /// Where this side writes what it is sent.
    #[arg(long, value_name = "FILE", global = true)]
    to: Option<PathBuf>,
}

/// What one side does.
enum Task<'a> {
    Send(&'a Path, File),
    Receive(&'a Path),
}

const ABOUT: &str = "Copies a file to the other side and proves that it is the same";

fn main() -> ExitCode {
    run("file_copy", ABOUT, |options: &Options<FileCopy>| {
        // What can fail without the other side fails first.
        let task = match (&options.own.send, &options.own.to) {
            (Some(path), None) => {
                let file = File::open(path).map_err(|error| at(path, &error))?;
                Task::Send(path, file)
            }
            (None, Some(path)) => Task::Receive(path),
            _ => return Err(Failure::usage("give --send FILE or --to FILE")),
        };
        match &options.place {
            Place::Host { vm } => on_host(Vm::connect(vm)?, options, open, |it| {
                copy(it, options, task)
            }),
            Place::Guest => in_guest(Agent::connect()?, options, open, |it| {
                copy(it, options, task)
            }),
        }
    })
}

/// The same on both sides: `C` is a VM on the host and the agent in the guest.
fn open<C: Connection>(region: RegionOptions<C>) -> Result<Stream<C>, Failure> {
    Ok(region.size(4 << 20).stream()?)
}

fn copy<C: Connection>(
    mut stream: Stream<C>,
    options: &Options<FileCopy>,
    task: Task<'_>,
) -> Result<String, Failure> {
    // Without this a read or a write waits for ever.
    stream.set_timeout(Some(options.timeout));
    options.wait_for_peer(|| stream.peer())?;
    let begun = Instant::now();
    let length = match task {
        Task::Send(path, file) => send(&mut stream, path, file)?,
        Task::Receive(path) => receive(&mut stream, path)?,
    };
    let seconds = begun.elapsed().as_secs_f64();
    // Only the host, which is to remove the region, must wait until the guest has read all.
    if C::SIDE == Side::Host {
        options.wait_until_gone(|| stream.peer())?;
    }
    let rate = length as f64 / seconds / 1e6;
    Ok(format!(
        "{length} bytes, {seconds:.3} s, {rate:.0} MB/s, the SHA-256 is the same on both sides"
    ))
}

fn send<C: Connection>(
    stream: &mut Stream<C>,
    path: &Path,
    mut file: File,
) -> Result<u64, Failure> {
    let length = file.metadata().map_err(|error| at(path, &error))?.len();
    stream.write_all(&length.to_le_bytes())?;
    let mut sum = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let count = file
            .read(due(&mut chunk, left))
            .map_err(|error| at(path, &error))?;
        if count == 0 {
            return Err(Failure::wrong(format!("{} became shorter", path.display())));
        }
        sum.update(&chunk[..count]);
        stream.write_all(&chunk[..count])?;
        left -= count as u64;
    }
    let sum = sum.finalize();
    stream.write_all(&sum)?;
    // Nothing more comes from here; what the other side sends can still be read.
    stream.finish()?;
    let mut theirs = Vec::new();
    stream.read_to_end(&mut theirs)?;
    if theirs[..] != sum[..] {
        return Err(Failure::wrong("the other side has received something else"));
    }
    Ok(length)
}

fn receive<C: Connection>(stream: &mut Stream<C>, path: &Path) -> Result<u64, Failure> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    // The file has its name once it is whole.
    let unfinished = PathBuf::from(format!("{}.unfinished", path.display()));
    let sum = write_file(stream, length, &unfinished);
    let renamed = sum.and_then(|sum| {
        fs::rename(&unfinished, path).map_err(|error| at(path, &error))?;
        Ok(sum)
    });
    let sum = renamed.inspect_err(|_| {
        // What cannot be removed was not made.
        let _ = fs::remove_file(&unfinished);
    })?;
    stream.write_all(&sum)?;
    stream.finish()?;
    Ok(length)
}

/// Writes `length` bytes of the stream, and checks them by the sum that comes behind them.
fn write_file<C: Connection>(
    stream: &mut Stream<C>,
    length: u64,
    path: &Path,
) -> Result<[u8; 32], Failure> {
    let mut file = File::create(path).map_err(|error| at(path, &error))?;
    let mut sum = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let count = stream.read(due(&mut chunk, left))?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        sum.update(&chunk[..count]);
        file.write_all(&chunk[..count])
            .map_err(|error| at(path, &error))?;
        left -= count as u64;
    }
    let mut stated = [0; 32];
    stream.read_exact(&mut stated)?;
    let sum: [u8; 32] = sum.finalize().into();
    if sum == stated {
        Ok(sum)
    } else {
        Err(Failure::wrong("what came is not what was sent"))
    }
}

/// As much of `chunk` as there is to come.
fn due(chunk: &mut [u8], left: u64) -> &mut [u8] {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
    &mut chunk[..count]
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::file(path.display(), error)
}
