//! Which pages of another process were written since they were last asked for: the kernel
//! takes the right to write from the pages, gives it back by itself at the first write, and
//! remembers that (userfaultfd's asynchronous write protection, and the request to
//! /proc/PID/pagemap that reads it; Linux 6.7 or later). Nobody is ever waited for, and with
//! the last descriptor of the userfaultfd all of it ends.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

/// `userfaultfd` for what programs do, which needs no privilege.
pub(crate) const TRACKING_FLAGS: u64 = libc::O_CLOEXEC as u64 | USER_MODE_ONLY;

const USER_MODE_ONLY: u64 = 1;
const API: u64 = 0xaa;
/// Protection against writes; also where there is no page yet; given back by the kernel.
const FEATURES: u64 = 1 | 1 << 13 | 1 << 15;
const MODE_WRITE_PROTECT: u64 = 1 << 1;

const UFFDIO_API: libc::Ioctl = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00;
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;

const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_PRESENT: u64 = 1 << 3;
/// Takes the right to write again from what is reported.
const PROTECT_MATCHING: u64 = 1 << 0;
/// Fails where pages are not watched so.
const CHECK_WATCHED: u64 = 1 << 1;

/// How many runs one request reports.
const RUNS: usize = 512;

#[repr(C)]
#[derive(Debug, Default)]
struct Handshake {
    api: u64,
    features: u64,
    requests: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Registration {
    start: u64,
    length: u64,
    mode: u64,
    requests: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    runs: u64,
    runs_length: u64,
    most_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    told: u64,
}

/// A run of pages, as the kernel reports it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    start: u64,
    end: u64,
    categories: u64,
}

/// # Safety
/// `argument` must be what the request expects.
unsafe fn request<T>(
    file: &impl AsRawFd,
    request: libc::Ioctl,
    argument: &mut T,
) -> Result<usize, Errno> {
    // SAFETY: the caller vouches for the argument, which lives and may be written.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    usize::try_from(answer).map_err(|_| error_of(&std::io::Error::last_os_error()))
}

fn error_of(error: &std::io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Watches memory of one process.
#[derive(Debug)]
pub(crate) struct Tracking {
    watch: OwnedFd,
    pages: File,
}

impl Tracking {
    /// Takes a userfaultfd over that the process has just made.
    pub(crate) fn new(process: u32, watch: OwnedFd) -> Result<Self, Errno> {
        let mut handshake = Handshake {
            api: API,
            features: FEATURES,
            requests: 0,
        };
        // SAFETY: the request takes and gives this structure.
        unsafe { request(&watch, UFFDIO_API, &mut handshake) }?;
        let pages = File::open(format!("/proc/{process}/pagemap"));
        let pages = pages.map_err(|error| error_of(&error))?;
        Ok(Self { watch, pages })
    }

    /// Watches a range. All of it counts as written at first.
    pub(crate) fn add(&self, start: u64, length: u64) -> Result<(), Errno> {
        let mut registration = Registration {
            start,
            length,
            mode: MODE_WRITE_PROTECT,
            requests: 0,
        };
        // SAFETY: the request takes and gives this structure.
        unsafe { request(&self.watch, UFFDIO_REGISTER, &mut registration) }.map(|_| ())
    }

    /// Lets all of a watched range count as not written from now on.
    pub(crate) fn start(&self, start: u64, length: u64) -> Result<(), Errno> {
        self.scan(start, length, PROTECT_MATCHING, |_, _| ())
    }

    /// Reports the runs of a watched range that were written since it was started, as
    /// address and length, and those without a page.
    pub(crate) fn written(
        &self,
        start: u64,
        length: u64,
        report: impl FnMut(u64, u64),
    ) -> Result<(), Errno> {
        self.scan(start, length, 0, report)
    }

    fn scan(
        &self,
        start: u64,
        length: u64,
        how: u64,
        mut report: impl FnMut(u64, u64),
    ) -> Result<(), Errno> {
        let end = start.checked_add(length).ok_or(Errno::INVAL)?;
        let mut runs = [Run::default(); RUNS];
        let mut at = start;
        while at < end {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                flags: CHECK_WATCHED | how,
                start: at,
                end,
                runs: runs.as_mut_ptr().expose_provenance() as u64,
                runs_length: RUNS as u64,
                // What has no page may have lost it since.
                inverted: PAGE_IS_PRESENT,
                any_of: PAGE_IS_WRITTEN | PAGE_IS_PRESENT,
                told: PAGE_IS_WRITTEN,
                ..Scan::default()
            };
            // SAFETY: the request takes this structure, which names live room for that many
            // runs.
            let count = unsafe { request(&self.pages, PAGEMAP_SCAN, &mut scan) }?;
            let found = runs.get(..count).ok_or(Errno::INVAL)?;
            for run in found {
                report(run.start, run.end.saturating_sub(run.start));
            }
            if scan.walk_end <= at {
                return Err(Errno::IO);
            }
            at = scan.walk_end;
        }
        Ok(())
    }
}
