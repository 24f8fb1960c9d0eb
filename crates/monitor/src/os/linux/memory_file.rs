//! How long a file of memory is that was handed over.

use std::io;

use vmshm_channel::Handed;

/// Its bytes: a page behind a file's end kills its reader, so a file that ends before what is
/// asked for is to be refused.
///
/// # Errors
/// What the system says of the descriptor.
pub fn size_if_it_can_shrink(file: &Handed) -> io::Result<Option<u64>> {
    let status = rustix::fs::fstat(file)?;
    Ok(Some(u64::try_from(status.st_size).unwrap_or(0)))
}
