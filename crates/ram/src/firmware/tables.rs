//! Firmware's and the kernel's tables made by hand, for tests.

use std::io::{Seek, SeekFrom, Write};

/// A root pointer; with a wide address it is of version 2.
pub(super) fn root_pointer(rsdt: u32, xsdt: Option<u64>) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[..8].copy_from_slice(b"RSD PTR ");
    bytes[9..15].copy_from_slice(b"BOCHS ");
    bytes[16..20].copy_from_slice(&rsdt.to_le_bytes());
    if let Some(xsdt) = xsdt {
        bytes[15] = 2;
        bytes[20..24].copy_from_slice(&36_u32.to_le_bytes());
        bytes[24..32].copy_from_slice(&xsdt.to_le_bytes());
    }
    bytes[8] = missing(&bytes[..20]);
    if xsdt.is_some() {
        bytes[32] = missing(&bytes);
    }
    bytes
}

/// What makes the sum zero.
fn missing(bytes: &[u8]) -> u8 {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    0_u8.wrapping_sub(sum)
}

/// A table with a right checksum.
pub(super) fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 36];
    bytes[..4].copy_from_slice(signature);
    bytes.extend_from_slice(body);
    let length = u32::try_from(bytes.len()).expect("short");
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[9] = missing(&bytes);
    bytes
}

/// Bytes at addresses.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<(u64, Vec<u8>)>);

impl Tables {
    /// Puts bytes there; later ones hide earlier ones.
    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.0.insert(0, (at, bytes.to_vec()));
    }

    /// Reads what was put.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> bool {
        let found = self.0.iter().find_map(|(start, bytes)| {
            let from = usize::try_from(at.checked_sub(*start)?).ok()?;
            bytes.get(from..from.checked_add(into.len())?)
        });
        found.is_some_and(|bytes| {
            into.copy_from_slice(bytes);
            true
        })
    }

    /// A sparse file of `length` bytes with these bytes at their places.
    #[cfg_attr(
        not(target_os = "linux"),
        allow(dead_code, reason = "only Linux searches sparse files")
    )]
    pub(super) fn file(&self, length: u64) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(length).expect("sparse");
        for (at, bytes) in self.0.iter().rev() {
            file.seek(SeekFrom::Start(*at)).expect("a place");
            file.write_all(bytes).expect("written");
        }
        file
    }
}

/// A table that maps one GiB by large pages, with pointers at the places given.
pub(super) fn gib_table(gib: u64, pointers: &[(usize, u64)]) -> Vec<u8> {
    let entry = |index: usize| {
        let pointer = pointers.iter().find(|(place, _)| *place == index);
        pointer.map_or(
            0x8000_0000_0000_01e3 | gib << 30 | (index as u64) << 21,
            |(_, address)| address | 0x63,
        )
    };
    (0..512)
        .flat_map(|index| entry(index).to_le_bytes())
        .collect()
}

/// A table that maps 2 MiB by small pages.
pub(super) fn small_table(first: u64) -> Vec<u8> {
    let entry = |index: u64| 0x8000_0000_0000_0163 | (first + (index << 12));
    (0..512)
        .flat_map(|index| entry(index).to_le_bytes())
        .collect()
}

/// A table of pointers.
pub(super) fn upper_table(pointers: &[(usize, u64)]) -> Vec<u8> {
    let entry = |index: usize| {
        let pointer = pointers.iter().find(|(place, _)| *place == index);
        pointer.map_or(0, |(_, address)| address | 0x67)
    };
    (0..512)
        .flat_map(|index| entry(index).to_le_bytes())
        .collect()
}
