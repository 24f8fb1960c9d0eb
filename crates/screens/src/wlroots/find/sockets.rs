//! Which Unix sockets are listened on: `/proc/net/unix`.

use std::collections::BTreeMap;
use std::path::Path;

/// The flag of a socket that accepts connections.
const ACCEPTS: u32 = 0x10000;
/// The type of a stream socket.
const STREAM: u32 = 1;
/// So many are looked at.
const LIMIT: usize = 4096;

/// Stream sockets with absolute paths that are listened on, by inode. None if the kernel does
/// not say.
pub fn listening(proc: &Path) -> BTreeMap<u64, String> {
    let text = std::fs::read(proc.join("net/unix")).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(entry)
        .take(LIMIT)
        .collect()
}

/// One line: number, references, protocol, flags, type, state, inode, path. The path may hold
/// spaces.
fn entry(line: &str) -> Option<(u64, String)> {
    let mut rest = line;
    let mut fields = [""; 7];
    for field in &mut fields {
        let trimmed = rest.trim_start();
        let end = trimmed.find(' ')?;
        *field = &trimmed[..end];
        rest = &trimmed[end..];
    }
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let accepts = number(fields[3])? & ACCEPTS != 0 && number(fields[4])? == STREAM;
    let path = rest.strip_prefix(' ')?;
    let inode = fields[6].parse().ok()?;
    (accepts && path.starts_with('/')).then(|| (inode, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let listens =
            "0000000000000000: 00000002 00000000 00010000 0001 01 5123 /run/user/1000/wayland-1";
        assert_eq!(
            entry(listens),
            Some((5123, "/run/user/1000/wayland-1".to_owned()))
        );
        let padded = "ffff8a0000000000: 00000002 00000000 00010000 0001 01    42 /tmp/a b";
        assert_eq!(entry(padded), Some((42, "/tmp/a b".to_owned())));
    }

    #[test]
    fn everything_else_is_left_out() {
        for other in [
            "Num       RefCount Protocol Flags    Type St Inode Path",
            "0000000000000000: 00000003 00000000 00000000 0001 03 5124 /run/user/1000/wayland-1",
            "0000000000000000: 00000002 00000000 00010000 0005 01 5125 /run/udev/control",
            "0000000000000000: 00000002 00000000 00010000 0001 01 5126 @/tmp/.X11-unix/X0",
            "0000000000000000: 00000002 00000000 00010000 0001 01 5127",
            "0000000000000000: 00000002 00000000 00010000 0001 01 x /tmp/a",
            "",
        ] {
            assert_eq!(entry(other), None, "{other}");
        }
    }
}
