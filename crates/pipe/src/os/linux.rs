//! Linux: the standard streams' descriptors are duplicated, and lead nowhere from then on.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// Standard input and output as files of our own, unbuffered. The streams' own numbers
/// lead nowhere from then on: dropping a file closes its direction for the program
/// behind it.
///
/// # Errors
/// What the system refused; the streams are then as they were, or lead nowhere.
pub fn take_standard_streams() -> io::Result<(File, File)> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok((input, output))
}
