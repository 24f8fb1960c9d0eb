//! Reading the kernel's list of processes. It knows no system call, so that it is tested
//! anywhere.
//!
//! Each entry is a `SYSTEM_PROCESS_INFORMATION`. Microsoft's page of that name gives the
//! places of its first fields and of the process's number, and calls those between
//! reserved; the time at which a process started stands there in every version since
//! Windows NT (ReactOS and Wine have the same).

/// Where the next entry lies, from this one on; zero for the last.
const NEXT: usize = 0;
const THREADS: usize = 4;
const CREATE_TIME: usize = 32;
/// Of 64-bit systems, after `UNICODE_STRING ImageName` and the base priority.
const PROCESS: usize = 80;

/// A process in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) pid: u64,
    /// In units of 100 nanoseconds since 1601.
    pub(super) started: u64,
    /// None are left of a process that has ended and of which somebody holds a handle.
    pub(super) threads: u32,
}

/// The processes in a list.
pub(super) fn parse(list: &[u8]) -> Vec<Listed> {
    let mut found = Vec::new();
    let mut rest = list;
    while let Some(entry) = entry(rest) {
        found.push(entry);
        let next = word(rest, NEXT).and_then(|next| usize::try_from(next).ok());
        match next
            .filter(|next| *next > 0)
            .and_then(|next| rest.get(next..))
        {
            Some(after) => rest = after,
            None => break,
        }
    }
    found
}

fn entry(bytes: &[u8]) -> Option<Listed> {
    Some(Listed {
        pid: long(bytes, PROCESS)?,
        started: long(bytes, CREATE_TIME)?,
        threads: word(bytes, THREADS)?,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

pub(super) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(next: u32, pid: u64, started: u64, threads: u32) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        bytes[NEXT..][..4].copy_from_slice(&next.to_le_bytes());
        bytes[THREADS..][..4].copy_from_slice(&threads.to_le_bytes());
        bytes[CREATE_TIME..][..8].copy_from_slice(&started.to_le_bytes());
        bytes[PROCESS..][..8].copy_from_slice(&pid.to_le_bytes());
        bytes
    }

    #[test]
    fn every_process_is_read_whatever_lies_between() {
        let first = entry(300, 4, 17, 100);
        let gap = vec![0xff; 44];
        let last = entry(0, 1234, u64::MAX, 0);
        let listed = parse(&[first, gap, last].concat());
        let pids: Vec<_> = listed.iter().map(|process| process.pid).collect();
        assert_eq!(pids, [4, 1234]);
        assert_eq!((listed[1].started, listed[1].threads), (u64::MAX, 0));
    }

    #[test]
    fn a_list_that_ends_early_or_points_outside_ends_there() {
        assert!(parse(&[]).is_empty());
        let whole = entry(0, 4, 17, 1);
        assert!(parse(&whole[..PROCESS + 7]).is_empty());
        for next in [200, 255, 256, 257, u32::MAX] {
            assert_eq!(parse(&entry(next, 4, 17, 1)).len(), 1, "{next}");
        }
    }
}
