//! Reads `/proc/PID/maps`. Lines that do not look as expected are passed over, since
//! a process may choose the names in them.

use crate::address::VmmVirtual;
use crate::mapping::{FileIdentity, MemoryMapping};

/// Parses the whole file.
pub(super) fn parse(text: &[u8]) -> Vec<MemoryMapping> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// One line: `start-end perms offset major:minor inode   path`.
fn parse_line(line: &[u8]) -> Option<MemoryMapping> {
    let mut rest = line;
    let range = next_field(&mut rest)?;
    let permissions = next_field(&mut rest)?.as_bytes();
    let offset = u64::from_str_radix(next_field(&mut rest)?, 16).ok()?;
    let (major, minor) = next_field(&mut rest)?.split_once(':')?;
    let device = (
        u32::from_str_radix(major, 16).ok()?,
        u32::from_str_radix(minor, 16).ok()?,
    );
    let inode: u64 = next_field(&mut rest)?.parse().ok()?;
    let (start, end) = range.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    if end <= start || permissions.len() < 4 {
        return None;
    }
    let path = String::from_utf8_lossy(trim_spaces(rest)).into_owned();
    Some(MemoryMapping {
        start: VmmVirtual(start),
        length: end - start,
        readable: permissions[0] == b'r',
        writable: permissions[1] == b'w',
        executable: permissions[2] == b'x',
        shared: permissions[3] == b's',
        file: (inode != 0).then_some(FileIdentity {
            device,
            inode,
            offset,
        }),
        name: path,
    })
}

/// Takes the text up to the next space off the front; nothing if it is empty or
/// no text.
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let trimmed = trim_spaces(rest);
    let end = trimmed
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap_or(trimmed.len());
    let (field, after) = trimmed.split_at(end);
    *rest = after;
    if field.is_empty() {
        return None;
    }
    std::str::from_utf8(field).ok()
}

fn trim_spaces(bytes: &[u8]) -> &[u8] {
    let start = bytes
        .iter()
        .position(|byte| *byte != b' ')
        .unwrap_or(bytes.len());
    &bytes[start..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_recorded_line_is_understood() {
        let parsed = parse(
            b"64000000-82f6d000 rwxs 04000000 00:1b 6                                  /dev/shm/#6 (deleted)\n",
        );
        assert_eq!(parsed.len(), 1);
        let mapping = &parsed[0];
        assert_eq!(mapping.start, VmmVirtual(0x6400_0000));
        assert_eq!(mapping.length, 0x1ef6_d000);
        assert!(mapping.shared && mapping.writable && mapping.executable && mapping.readable);
        assert_eq!(
            mapping.file,
            Some(FileIdentity {
                device: (0, 0x1b),
                inode: 6,
                offset: 0x400_0000
            })
        );
        assert_eq!(mapping.name, "/dev/shm/#6 (deleted)");
    }

    #[test]
    fn anonymous_memory_has_no_file_and_names_may_hold_spaces() {
        let parsed = parse(
            b"7f853fe00000-7f854fe00000 rw-p 00000000 00:00 0 \n\
              7f0000000000-7f0000001000 r--p 00000000 fe:00 12 /tmp/a name  with spaces\n",
        );
        assert_eq!(parsed[0].file, None);
        assert_eq!(parsed[0].name, "");
        assert_eq!(parsed[1].name, "/tmp/a name  with spaces");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn nearly_right_lines_are_survived(line in "[0-9a-f]{0,18}-[0-9a-f]{0,18} [rwxsp-]{0,5} [0-9a-f]{0,18} [0-9a-f]{0,3}:[0-9a-f]{0,3} [0-9]{0,22} .{0,12}") {
            for mapping in parse(line.as_bytes()) {
                prop_assert!(mapping.length > 0);
                prop_assert!(mapping.start.0.checked_add(mapping.length).is_some());
            }
        }
    }
}
