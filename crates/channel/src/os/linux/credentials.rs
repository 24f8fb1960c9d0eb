//! Who is at the other end of a socket, as the kernel says it: user and group as of when it
//! connected, and, where the rules ask for groups, its supplementary ones.
//!
//! The latter come from `/proc`, where the process is found by its number. That may be
//! another process's by then, so they count only if all of that process's user ids are the
//! connecting user's. Where they cannot be read there are none.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

/// The longest `/proc/PID/status` that is read; a process may be in 65536 groups.
const STATUS_LIMIT: u64 = 1 << 20;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The primary group's.
    pub gid: u32,
    /// The supplementary groups', as far as they are known.
    pub groups: Vec<u32>,
}

impl User {
    /// Whether it is root.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether it belongs to a group.
    #[must_use]
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// The process at the other end of a socket, and its user.
///
/// # Errors
/// What the system says; a socket that is not connected has nobody there.
pub fn peer(socket: impl AsFd, with_groups: bool) -> io::Result<(u32, User)> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    let pid = credentials.pid.as_raw_nonzero().get().unsigned_abs();
    let uid = credentials.uid.as_raw();
    let groups = if with_groups {
        groups_of(pid, uid).unwrap_or_default()
    } else {
        Vec::new()
    };
    let gid = credentials.gid.as_raw();
    Ok((pid, User { uid, gid, groups }))
}

fn groups_of(pid: u32, uid: u32) -> Option<Vec<u32>> {
    let mut text = String::new();
    File::open(format!("/proc/{pid}/status"))
        .ok()?
        .take(STATUS_LIMIT)
        .read_to_string(&mut text)
        .ok()?;
    parse_groups(&text, uid)
}

/// The groups in a process's status, if all of its user ids are `uid`.
fn parse_groups(status: &str, uid: u32) -> Option<Vec<u32>> {
    let numbers = |key: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace()
            .map(|number| number.parse().ok())
            .collect()
    };
    let users = numbers("Uid:")?;
    if users.is_empty() || users.iter().any(|user| *user != uid) {
        return None;
    }
    numbers("Groups:")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const STATUS: &str = "Name:\tUid: 0\nUmask:\t0022\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\nFDSize:\t64\nGroups:\t4 24 100 \nVmPeak:\t1 kB\n";

    #[test]
    fn groups_count_only_for_the_user_that_connected() {
        assert_eq!(parse_groups(STATUS, 1000), Some(vec![4, 24, 100]));
        assert_eq!(parse_groups(STATUS, 1001), None);
        let set_uid = STATUS.replace("1000\t1000\t1000\t1000", "1000\t0\t0\t0");
        assert_eq!(parse_groups(&set_uid, 1000), None);
        assert_eq!(parse_groups("", 1000), None);
        assert_eq!(parse_groups("Uid:\n", 1000), None);
    }

    #[test]
    fn a_peer_is_who_the_kernel_says() {
        let (one, _other) = UnixStream::pair().expect("succeeds");
        let (pid, user) = peer(&one, true).expect("succeeds");
        assert_eq!(pid, std::process::id());
        assert_eq!(user.uid, rustix::process::geteuid().as_raw());
        assert!(user.is_in_group(rustix::process::getegid().as_raw()));
    }
}
