//! Reads the table of all handles of the system (`SystemExtendedHandleInformation`, 64):
//! whose each is, of what kind, and which object it leads to. Object addresses are hidden (0)
//! from programs without SeDebugPrivilege on newer systems; then only copies of the handles
//! can be compared. A table that was cut short gives what is whole in it.

/// Bytes before the first entry: the number of entries, and a reserved word.
const HEADER: usize = 16;
/// Bytes of an entry (`SYSTEM_HANDLE_TABLE_ENTRY_INFO_EX` of a 64-bit system).
const ENTRY: usize = 40;

/// A handle of some process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The kernel's object; 0 where the system does not say.
    pub(super) object: u64,
    pub(super) pid: u64,
    pub(super) handle: u64,
    /// The number of the object's kind; another one on every release of the system.
    pub(super) kind: u16,
}

/// The entries of a table.
pub(super) fn entries(table: &[u8]) -> impl Iterator<Item = Entry> + '_ {
    let count = number(table, 0).unwrap_or(0);
    let entries = table.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    entries.take(count).filter_map(|entry| {
        Some(Entry {
            object: number(entry, 0)?,
            pid: number(entry, 8)?,
            handle: number(entry, 16)?,
            kind: u16::from_le_bytes(*entry.get(30..)?.first_chunk()?),
        })
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The entry of one of this process's own handles: it tells how sections are numbered, and
/// which object the handle leads to.
pub(super) fn own_entry(table: &[u8], pid: u32, handle: u64) -> Option<Entry> {
    entries(table).find(|entry| entry.pid == u64::from(pid) && entry.handle == handle)
}

/// A process's handles of one kind, each object once where objects can be told.
pub(super) fn of_process(table: &[u8], pid: u32, kind: u16) -> Vec<Entry> {
    let mut objects = std::collections::HashSet::new();
    entries(table)
        .filter(|entry| entry.pid == u64::from(pid) && entry.kind == kind)
        .filter(|entry| entry.object == 0 || objects.insert(entry.object))
        .collect()
}

/// What the table says of a section whose name was opened: whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The process holds it under this handle.
    Held(u64),
    /// The process holds no handle that leads to the object.
    NotHeld,
    /// The system hides objects.
    Hidden,
}

/// Whether a process holds the object to which the own handle `opened` leads.
pub(super) fn ownership(table: &[u8], own_pid: u32, opened: u64, pid: u32) -> Ownership {
    match own_entry(table, own_pid, opened) {
        None | Some(Entry { object: 0, .. }) => Ownership::Hidden,
        Some(own) => entries(table)
            .find(|entry| entry.pid == u64::from(pid) && entry.object == own.object)
            .map_or(Ownership::NotHeld, |entry| Ownership::Held(entry.handle)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = (entries.len() as u64).to_le_bytes().to_vec();
        bytes.extend([0; 8]);
        for entry in entries {
            bytes.extend(entry.object.to_le_bytes());
            bytes.extend(entry.pid.to_le_bytes());
            bytes.extend(entry.handle.to_le_bytes());
            bytes.extend([0; 6]);
            bytes.extend(entry.kind.to_le_bytes());
            bytes.extend([0; 8]);
        }
        bytes
    }

    const fn entry(object: u64, pid: u64, handle: u64, kind: u16) -> Entry {
        Entry {
            object,
            pid,
            handle,
            kind,
        }
    }

    #[test]
    fn a_hundred_thousand_handles_are_read_and_the_right_ones_chosen() {
        let mut all: Vec<Entry> = (0..100_000)
            .map(|index| entry(0x1000 + index * 16, 4, index * 4, 7))
            .collect();
        all.push(entry(0xaaaa, 50, 4, 42));
        all.push(entry(0xbbbb, 50, 8, 42));
        // The same object under another handle, and an object of another kind.
        all.push(entry(0xaaaa, 50, 12, 42));
        all.push(entry(0xcccc, 50, 16, 7));
        all.push(entry(0xbbbb, 99, 20, 42));
        let bytes = table(&all);
        assert_eq!(entries(&bytes).count(), 100_005);
        let handles = |pid| -> Vec<u64> {
            let found = of_process(&bytes, pid, 42);
            found.iter().map(|entry| entry.handle).collect()
        };
        assert_eq!(handles(50), [4, 8]);
        assert_eq!(handles(1), [0; 0]);
        assert_eq!(own_entry(&bytes, 99, 20).map(|own| own.kind), Some(42));
        // The name that process 99 opened leads to what process 50 holds, and 4 does not.
        assert_eq!(ownership(&bytes, 99, 20, 50), Ownership::Held(8));
        assert_eq!(ownership(&bytes, 99, 20, 4), Ownership::NotHeld);
        assert_eq!(ownership(&bytes, 99, 24, 50), Ownership::Hidden);
    }

    #[test]
    fn where_objects_are_hidden_every_handle_counts() {
        let bytes = table(&[entry(0, 50, 4, 42), entry(0, 50, 8, 42), entry(0, 9, 4, 42)]);
        assert_eq!(of_process(&bytes, 50, 42).len(), 2);
        assert_eq!(ownership(&bytes, 9, 4, 50), Ownership::Hidden);
    }

    #[test]
    fn a_table_that_was_cut_short_gives_what_is_whole() {
        let mut bytes = table(&[entry(1, 2, 3, 4), entry(5, 6, 7, 8)]);
        bytes.truncate(bytes.len() - 1);
        assert_eq!(entries(&bytes).count(), 1);
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(entries(&bytes).count(), 1);
        assert_eq!(entries(&[1, 2, 3]).count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = of_process(&bytes, 1, 2);
            let _ = ownership(&bytes, 1, 2, 3);
        }
    }
}
