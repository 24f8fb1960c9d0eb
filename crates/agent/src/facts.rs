//! What the guest's kernel says of itself: release, boot id, RAM. It refuses to
//! guess: a fact that cannot be read is an error, an unknown layout an empty list.

use std::fs;
use std::io;

use vmshm_link::fields::word_at;
use vmshm_link::mix::mix;
use vmshm_link::{Extent, GuestPhysical};
use vmshm_shm::PAGE_SIZE;

/// A fact that could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FactsError {
    /// A file of the kernel cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file of the kernel does not say what it should.
    #[error("{path} does not say {what}")]
    Missing {
        /// The file.
        path: &'static str,
        /// What was looked for.
        what: &'static str,
    },
}

fn read(path: &'static str) -> Result<String, FactsError> {
    fs::read_to_string(path).map_err(|error| FactsError::Unreadable { path, error })
}

/// As `uname -r` prints it.
pub(crate) fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// What the guest calls itself, as `uname -n` prints it.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The random id of this boot.
pub(crate) fn boot_id() -> Result<[u8; 16], FactsError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    parse_uuid(read(PATH)?.trim()).ok_or(FactsError::Missing {
        path: PATH,
        what: "a boot id",
    })
}

/// A random number, not zero. Not for secrets: a guest that has just booted may not
/// have gathered entropy yet, and must not be waited for.
pub(crate) fn random_word() -> Result<u64, FactsError> {
    const PATH: &str = "/proc/sys/kernel/random/uuid";
    let random = parse_uuid(read(PATH)?.trim()).ok_or(FactsError::Missing {
        path: PATH,
        what: "a random id",
    })?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let clock = now.as_secs() << 30 | u64::from(now.subsec_nanos());
    let words = mix(word_at(&random, 0), word_at(&random, 8));
    Ok(mix(words, clock).max(1))
}

/// Bytes of RAM that the kernel manages.
pub(crate) fn total_memory() -> Result<u64, FactsError> {
    meminfo("MemTotal:")
}

/// Bytes of RAM that can be had without swapping.
pub(crate) fn available_memory() -> Result<u64, FactsError> {
    meminfo("MemAvailable:")
}

fn meminfo(key: &'static str) -> Result<u64, FactsError> {
    const PATH: &str = "/proc/meminfo";
    parse_meminfo(&read(PATH)?, key).ok_or(FactsError::Missing {
        path: PATH,
        what: key,
    })
}

fn parse_meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The guest's RAM ranges in ascending order: from `/proc/iomem`, else (user-mode
/// Linux lists nothing there) from the spans of the memory zones, which may hold gaps.
pub(crate) fn ram_ranges() -> Result<Vec<Extent>, FactsError> {
    let listed = listed_ram_ranges()?;
    if !listed.is_empty() {
        return Ok(listed);
    }
    Ok(parse_zones(&read("/proc/zoneinfo")?))
}

/// The RAM ranges of `/proc/iomem`, which also lists memory that was plugged later.
pub(crate) fn listed_ram_ranges() -> Result<Vec<Extent>, FactsError> {
    Ok(parse_iomem(&read("/proc/iomem")?))
}

fn parse_iomem(text: &str) -> Vec<Extent> {
    let mut ranges: Vec<Extent> = Vec::new();
    for line in text.lines() {
        // Indented lines are parts of what is above them.
        let Some((range, "System RAM")) = line.split_once(" : ") else {
            continue;
        };
        let ends = range.split_once('-').and_then(|(first, last)| {
            Some((
                u64::from_str_radix(first, 16).ok()?,
                u64::from_str_radix(last, 16).ok()?,
            ))
        });
        // Without the right to see them all addresses are zero.
        if let Some((first, last)) = ends
            && last > first
        {
            ranges.push(Extent {
                start: GuestPhysical(first),
                length: (last - first).saturating_add(1),
            });
        }
    }
    // What touches stays apart: plugged memory is told by its length.
    ranges.sort_unstable();
    ranges
}

fn parse_zones(text: &str) -> Vec<Extent> {
    let number = |line: &str, key: &str| -> Option<u64> {
        line.trim().strip_prefix(key)?.trim().parse().ok()
    };
    let mut ranges = Vec::new();
    let mut spanned = 0_u64;
    for line in text.lines() {
        if let Some(pages) = number(line, "spanned ") {
            spanned = pages;
        } else if let Some(first) = number(line, "start_pfn:") {
            if let (Some(start), Some(length)) =
                (first.checked_mul(PAGE_SIZE), spanned.checked_mul(PAGE_SIZE))
                && length > 0
            {
                ranges.push(Extent {
                    start: GuestPhysical(start),
                    length,
                });
            }
            spanned = 0;
        }
    }
    in_order(ranges)
}

/// Sorted, touching ranges joined; overlapping ones (zones of several nodes) too.
fn in_order(mut ranges: Vec<Extent>) -> Vec<Extent> {
    ranges.sort_unstable();
    let mut joined: Vec<Extent> = Vec::with_capacity(ranges.len());
    for range in ranges {
        let Some(end) = range.end() else { continue };
        match joined.last_mut() {
            Some(last) if last.end().is_some_and(|last_end| last_end >= range.start) => {
                last.length = last.length.max(end.0 - last.start.0);
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// The bytes of `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, in the order written.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|letter| *letter != '-')
        .map(|letter| {
            letter
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    if rest.is_empty() {
        bytes.try_into().ok()
    } else {
        None
    }
}

/// A boot id as people write it.
pub(crate) fn show_boot_id(id: &[u8; 16]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(36);
    for (index, byte) in id.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, end: u64) -> Extent {
        Extent {
            start: GuestPhysical(start),
            length: end - start,
        }
    }

    #[test]
    fn reads_a_pc() {
        let text = "00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n000f0000-000fffff : Reserved\n  000f0000-000fffff : System ROM\n00100000-1ffdffff : System RAM\n  0a200000-0b001d31 : Kernel code\n100000000-13fffffff : System RAM\n140000000-147ffffff : System RAM\n";
        assert_eq!(
            parse_iomem(text),
            [
                extent(0x1000, 0x9fc00),
                extent(0x10_0000, 0x1ffe_0000),
                extent(0x1_0000_0000, 0x1_4000_0000),
                extent(0x1_4000_0000, 0x1_4800_0000)
            ]
        );
    }

    #[test]
    fn hidden_addresses_are_no_ranges() {
        assert_eq!(parse_iomem("00000000-00000000 : System RAM\n"), []);
        assert_eq!(parse_iomem(""), []);
    }

    #[test]
    fn reads_zones() {
        let text = "Node 0, zone DMA\n  pages free 10\n        spanned  4095\n        present  3998\n  start_pfn:           1\nNode 0, zone DMA32\n        spanned  1000\n  start_pfn:           4096\nNode 0, zone Normal\n        spanned  0\n  start_pfn:           0\n";
        assert_eq!(parse_zones(text), [extent(0x1000, (4096 + 1000) << 12)]);
    }

    #[test]
    fn boot_ids_survive_both_ways() {
        let text = "2c8f5066-ed79-4ae6-80db-e1bbba0426e3";
        assert_eq!(show_boot_id(&parse_uuid(text).expect("succeeds")), text);
        assert_eq!(parse_uuid("2c8f"), None);
        assert_eq!(parse_uuid("zc8f5066-ed79-4ae6-80db-e1bbba0426e3"), None);
    }

    #[test]
    fn random_words_differ() {
        let word = || random_word().expect("succeeds");
        assert_ne!(word(), word());
    }

    #[test]
    fn reads_meminfo() {
        let text = "MemTotal:         468416 kB\nMemFree:          437576 kB\n";
        assert_eq!(parse_meminfo(text, "MemTotal:"), Some(468_416 << 10));
        assert_eq!(parse_meminfo(text, "MemAvailable:"), None);
    }
}
