//! The directory in which socket and notes lie, made by whichever comes first.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Clients pass through to the socket, and nobody looks around: in a guest that is a host, too,
/// it is also the agent's directory.
const MODE: u32 = 0o711;

/// Makes a directory, and those above it. One that is there stays as it is.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    if let Some(above) = directory.parent() {
        make(above)?;
    }
    match DirBuilder::new().mode(MODE).create(directory) {
        // Whatever the umask.
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(MODE)),
        Err(_) if directory.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Journal, Listener};

    fn mode(path: &Path) -> u32 {
        let found = fs::metadata(path).expect("there");
        found.permissions().mode() & 0o7777
    }

    #[test]
    fn whoever_makes_it_others_pass_through_and_do_not_look_around() {
        let directory = tempfile::tempdir().expect("made");
        let first = directory.path().join("by-socket/below");
        let listener = Listener::bind(&first.join("socket")).expect("listens");
        let second = directory.path().join("by-notes/below");
        let journal = Journal::open(&second.join("notes")).expect("opens");
        for made in [&first, &second] {
            assert_eq!(mode(made), MODE);
            assert_eq!(mode(made.parent().expect("below")), MODE);
        }
        assert_eq!(mode(&second.join("notes")), 0o700);
        drop((listener, journal));
    }

    #[test]
    fn one_that_is_there_stays_as_it_is() {
        let directory = tempfile::tempdir().expect("made");
        let bits = Permissions::from_mode(0o750);
        fs::set_permissions(directory.path(), bits).expect("ours");
        make(directory.path()).expect("there");
        let _listener = Listener::bind(&directory.path().join("socket")).expect("listens");
        let _journal = Journal::open(&directory.path().join("notes")).expect("opens");
        assert_eq!(mode(directory.path()), 0o750);
        make(Path::new("")).expect("here");
        fs::write(directory.path().join("file"), "").expect("written");
        assert!(make(&directory.path().join("file/below")).is_err());
    }
}
