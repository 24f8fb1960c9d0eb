//! Writes a cpio archive in the "newc" form, which is what the kernel unpacks as an initramfs.
//!
//! Only directories and regular files, all owned by root. Refuses file names and contents too long for the format.

use anyhow::{Context, Result};

/// An archive in the making.
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// An archive with nothing in it.
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
        }
    }

    /// Adds a directory.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, 0o040_755, &[])
    }

    /// Adds a regular file that everybody may read and, if `executable`, run.
    pub fn file(&mut self, name: &str, contents: &[u8], executable: bool) -> Result<()> {
        self.entry(
            name,
            if executable { 0o100_755 } else { 0o100_644 },
            contents,
        )
    }

    /// Ends the archive and gives its bytes.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    /// Adds one entry: a header of hexadecimal numbers, the name, and the contents, each padded to four bytes.
    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.inode += 1;
        let length = u32::try_from(contents.len())
            .with_context(|| format!("{name} is too long for an initramfs"))?;
        let name_length = u32::try_from(name.len() + 1)?;
        let links = 1;
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            length,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
        Ok(())
    }

    /// Fills up to a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_carry_their_lengths() {
        let mut archive = Archive::new();
        archive.directory("bin").expect("fits");
        archive.file("bin/x", b"hello", true).expect("fits");
        let bytes = archive.finish().expect("fits");
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..14], b"07070100000001");
        let header = 110;
        let file = (header + "bin\0".len()).next_multiple_of(4);
        assert_eq!(&bytes[file + 14..file + 22], b"000081ed");
        assert_eq!(&bytes[file + 54..file + 62], b"00000005");
        let contents = (file + header + "bin/x\0".len()).next_multiple_of(4);
        assert_eq!(&bytes[contents..contents + 5], b"hello");
    }
}
