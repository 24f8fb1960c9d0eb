//! ACPI's tables in guest memory: the root pointer, and the tables that it leads to. A
//! table counts only with its own signature, a length that makes sense and a right
//! checksum. Layouts after the ACPI specification 6.5, chapter 5.2. What is damaged,
//! points nowhere or goes round in circles proves nothing; nothing is followed deeper
//! than the specification goes.

use vmshm_link::{Extent, GuestPhysical};

use super::allowance::Allowance;

/// What a root pointer starts with; it stands on a multiple of 16.
pub(super) const RSDP_SIGNATURE: &[u8; 8] = b"RSD PTR ";
/// Bytes of a root pointer of version 2; the first 20 are version 1.
pub(super) const RSDP_LENGTH: usize = 36;
const RSDP_FIRST_LENGTH: usize = 20;
/// Bytes of the header that every table starts with.
const HEADER: usize = 36;
/// Longer tables are not believed: a large machine's are some hundred KiB.
const LONGEST_TABLE: u32 = 1 << 20;
/// More entries than this no root table has.
const MOST_ENTRIES: usize = 256;
/// How many bytes of tables are summed up for one root pointer.
const READING_BUDGET: usize = 8 << 20;

/// A root pointer with a right checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootPointer {
    rsdt: u32,
    xsdt: Option<u64>,
}

/// What following one root pointer showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// Addresses of tables that are where a pointer says.
    pub(super) confirmed: Vec<GuestPhysical>,
    /// How many pointers lead to something else.
    pub(super) refuted: usize,
    /// Memory that the affinity table (SRAT) says is there, without what may be plugged.
    pub(super) memory: Vec<Extent>,
}

/// Reads guest memory at an address; `false` where there is none.
pub(super) type Reader<'a> = dyn FnMut(GuestPhysical, &mut [u8]) -> bool + 'a;

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl RootPointer {
    /// The root pointer at the start of `bytes`, if one stands there.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let first = bytes.get(..RSDP_FIRST_LENGTH)?;
        if !first.starts_with(RSDP_SIGNATURE) || !sums_to_zero(first) {
            return None;
        }
        let rsdt = half(bytes, 16)?;
        let whole = bytes.get(..RSDP_LENGTH);
        // Version 2 has a checksum over all of it, too; a wrong one makes it version 1.
        let second = bytes.get(15).is_some_and(|revision| *revision >= 2)
            && whole.is_some_and(sums_to_zero)
            && half(bytes, 20).is_some_and(|length| length as usize == RSDP_LENGTH);
        let xsdt = word(bytes, 24).filter(|address| second && *address != 0);
        (rsdt != 0 || xsdt.is_some()).then_some(Self { rsdt, xsdt })
    }
}

/// Follows a root pointer as far as tables and the allowance go.
pub(super) fn walk(root: &RootPointer, allowance: &mut Allowance, read: &mut Reader<'_>) -> Walk {
    let mut walker = Walker {
        read,
        allowance,
        budget: READING_BUDGET,
        walk: Walk::default(),
    };
    if root.rsdt != 0 {
        walker.root_table(u64::from(root.rsdt), b"RSDT", 4);
    }
    if let Some(xsdt) = root.xsdt {
        walker.root_table(xsdt, b"XSDT", 8);
    }
    let mut walk = walker.walk;
    walk.confirmed.sort_unstable();
    walk.confirmed.dedup();
    walk.memory.sort_unstable();
    walk.memory.dedup();
    walk
}

struct Walker<'a, 'b> {
    read: &'a mut Reader<'b>,
    /// For all root pointers.
    allowance: &'a mut Allowance,
    /// For this one.
    budget: usize,
    walk: Walk,
}

impl Walker<'_, '_> {
    /// A root table: its header, then addresses of `width` bytes.
    fn root_table(&mut self, address: u64, signature: &[u8; 4], width: usize) {
        let Some(table) = self.table(address, Some(signature)) else {
            return;
        };
        let entries = table.get(HEADER..).unwrap_or_default().chunks_exact(width);
        for entry in entries.take(MOST_ENTRIES) {
            if self.allowance.is_over() {
                return;
            }
            let address = match width {
                4 => half(entry, 0).map(u64::from),
                _ => word(entry, 0),
            };
            let Some(address) = address.filter(|address| *address != 0) else {
                continue;
            };
            // Root tables list no root tables; who does so goes round in circles.
            let Some(listed) = self.table(address, None) else {
                continue;
            };
            match listed.get(..4) {
                Some(b"FACP") => {
                    let wide = word(&listed, 140).filter(|address| *address != 0);
                    let narrow = half(&listed, 40).map(u64::from);
                    if let Some(address) = wide.or(narrow).filter(|address| *address != 0) {
                        self.table(address, Some(b"DSDT"));
                    }
                }
                Some(b"SRAT") => self.walk.memory.extend(memory_affinity(&listed)),
                _ => {}
            }
        }
    }

    /// The table at an address, counted as confirmed or refuted.
    fn table(&mut self, address: u64, signature: Option<&[u8; 4]>) -> Option<Vec<u8>> {
        let found = self.read_table(GuestPhysical(address), signature);
        match &found {
            Some(_) => self.walk.confirmed.push(GuestPhysical(address)),
            // What may not be read says nothing.
            None if self.allowance.is_over() => {}
            None => self.walk.refuted += 1,
        }
        found
    }

    fn read_table(
        &mut self,
        address: GuestPhysical,
        signature: Option<&[u8; 4]>,
    ) -> Option<Vec<u8>> {
        let mut header = [0; HEADER];
        if !self.allowance.take(HEADER) || !(self.read)(address, &mut header) {
            return None;
        }
        let found: &[u8; 4] = header.first_chunk()?;
        let fits = match signature {
            Some(wanted) => found == wanted,
            None => {
                let is_letter = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
                found.iter().all(is_letter) && found != b"RSDT" && found != b"XSDT"
            }
        };
        let length = half(&header, 4).filter(|length| *length <= LONGEST_TABLE)?;
        let length = usize::try_from(length).ok()?;
        if !fits || length < HEADER || length > self.budget || !self.allowance.take(length) {
            return None;
        }
        self.budget -= length;
        let mut table = vec![0; length];
        ((self.read)(address, &mut table) && sums_to_zero(&table)).then_some(table)
    }
}

/// The memory that an affinity table lists: entries of type 1 that are enabled and not
/// kept free for plugging.
fn memory_affinity(table: &[u8]) -> Vec<Extent> {
    const ENABLED: u32 = 1;
    const PLUGGABLE: u32 = 2;
    let mut memory = Vec::new();
    let mut at = HEADER + 12;
    while let Some([kind, length]) = table.get(at..).and_then(|rest| rest.first_chunk()) {
        let entry = table.get(at..at + usize::from(*length));
        let Some(entry) = entry.filter(|entry| entry.len() >= 2) else {
            break;
        };
        if *kind == 1
            && let (Some(start), Some(length), Some(flags)) =
                (word(entry, 8), word(entry, 16), half(entry, 28))
            && flags & (ENABLED | PLUGGABLE) == ENABLED
            && length > 0
        {
            memory.push(Extent {
                start: GuestPhysical(start),
                length,
            });
        }
        at += entry.len();
    }
    memory
}

#[cfg(test)]
#[path = "acpi_tests.rs"]
mod tests;
