//! Which listeners hold a connection to a guest, for the programs that ring through them.

use std::path::PathBuf;

use super::{PREFIX, Tie, files, is_ours_alone, read};

/// The running listeners of this user that hold a connection to the guest in process `pid`,
/// which started then: each one's directory and process number.
pub(crate) fn listeners_of(directories: &[PathBuf], pid: u32, started: u64) -> Vec<(PathBuf, u32)> {
    let is_meant = |tie: &Tie| tie.pid == pid && tie.start_time == started;
    let own = directories
        .iter()
        .filter(|directory| is_ours_alone(directory));
    own.flat_map(|directory| files(directory))
        .filter(|path| read(path).is_some_and(|ties| ties.iter().any(is_meant)))
        .filter_map(|path| {
            let number = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
            Some((path.parent()?.to_owned(), number.parse().ok()?))
        })
        .collect()
}
