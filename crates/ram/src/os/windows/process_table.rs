//! Reads the table of all processes and their threads (`SystemProcessInformation`, 5), which
//! tells of processes that may not be opened, too. Entries that lead out of the table end it.

use super::unicode_string;

/// Bytes of an entry before its threads (`SYSTEM_PROCESS_INFORMATION` of a 64-bit system).
const ENTRY: usize = 0x100;
/// Bytes of a thread (`SYSTEM_THREAD_INFORMATION`).
const THREAD: usize = 0x50;
/// A thread's state: it waits (`KTHREAD_STATE`).
const WAITING: u32 = 5;
/// What it waits for: to be resumed (`KWAIT_REASON`: `Suspended`, `WrSuspended`).
const SUSPENDED: [u32; 2] = [5, 12];

/// What the table tells of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// The executable's file name; empty for the idle process.
    pub(super) name: String,
    /// When it started, in units of 100 ns since 1601.
    pub(super) start_time: u64,
    /// Whether it has threads and all of them are suspended.
    pub(super) is_stopped: bool,
}

/// All processes of a table, which the system filled in where it had the address `base`.
pub(super) fn entries(table: &[u8], base: u64) -> Vec<Entry> {
    let mut all = Vec::new();
    let mut at = 0_usize;
    while let Some(entry) = read(table, base, at) {
        all.push(entry);
        let next = word(table, at).and_then(|next| usize::try_from(next).ok());
        match next {
            // Never backwards: each entry is at least as long as its fixed part.
            Some(next) if next >= ENTRY => at = at.saturating_add(next),
            _ => break,
        }
    }
    all
}

fn read(table: &[u8], base: u64, at: usize) -> Option<Entry> {
    let entry = table.get(at..)?;
    if entry.len() < ENTRY {
        return None;
    }
    let threads = usize::try_from(word(entry, 4)?).ok()?;
    let threads = entry.get(ENTRY..)?.chunks_exact(THREAD).take(threads);
    let mut seen = 0_usize;
    let mut suspended = 0_usize;
    for thread in threads {
        seen += 1;
        let (state, reason) = (word(thread, 0x44)?, word(thread, 0x48)?);
        suspended += usize::from(state == WAITING && SUSPENDED.contains(&reason));
    }
    Some(Entry {
        pid: u32::try_from(number(entry, 0x50)?).ok()?,
        parent: u32::try_from(number(entry, 0x58)?).unwrap_or(0),
        name: unicode_string::text(table, base, at + 0x38).unwrap_or_default(),
        start_time: number(entry, 0x20)?,
        is_stopped: seen > 0 && seen == suspended,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: u64 = 0x10_0000;

    /// An entry with its threads' states and reasons, and its name behind them.
    fn push(table: &mut Vec<u8>, pid: u64, name: &str, threads: &[(u32, u32)], is_last: bool) {
        let start = table.len();
        let mut entry = vec![0_u8; ENTRY + threads.len() * THREAD];
        entry[4..8].copy_from_slice(&u32::try_from(threads.len()).expect("few").to_le_bytes());
        entry[0x20..0x28].copy_from_slice(&(pid * 1000).to_le_bytes());
        let bytes: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let length = u16::try_from(bytes.len()).expect("short");
        entry[0x38..0x3a].copy_from_slice(&length.to_le_bytes());
        let text_at = BASE + (start + entry.len()) as u64;
        entry[0x40..0x48].copy_from_slice(&text_at.to_le_bytes());
        entry[0x50..0x58].copy_from_slice(&pid.to_le_bytes());
        entry[0x58..0x60].copy_from_slice(&1_u64.to_le_bytes());
        for (index, (state, reason)) in threads.iter().enumerate() {
            let at = ENTRY + index * THREAD;
            entry[at + 0x44..at + 0x48].copy_from_slice(&state.to_le_bytes());
            entry[at + 0x48..at + 0x4c].copy_from_slice(&reason.to_le_bytes());
        }
        entry.extend(bytes);
        entry.resize(entry.len().next_multiple_of(8), 0);
        let next = if is_last { 0 } else { entry.len() };
        entry[..4].copy_from_slice(&u32::try_from(next).expect("small").to_le_bytes());
        table.extend(entry);
    }

    #[test]
    fn processes_their_names_and_stopped_threads_are_read() {
        let mut table = Vec::new();
        push(&mut table, 4, "System", &[(5, 0)], false);
        push(&mut table, 50, "vmware-vmx.exe", &[(5, 5), (5, 12)], false);
        push(&mut table, 60, "a.exe", &[(5, 5), (2, 5)], false);
        push(&mut table, 70, "", &[], true);
        let all = entries(&table, BASE);
        let stopped: Vec<bool> = all.iter().map(|entry| entry.is_stopped).collect();
        assert_eq!(stopped, [false, true, false, false]);
        assert_eq!(all[1].name, "vmware-vmx.exe");
        assert_eq!((all[1].pid, all[1].parent), (50, 1));
        assert_eq!(all[1].start_time, 50_000);
        assert_eq!(all[3].name, "");
    }

    #[test]
    fn an_entry_that_leads_nowhere_ends_the_table() {
        let mut table = Vec::new();
        push(&mut table, 4, "System", &[(5, 0)], false);
        let whole = entries(&table, BASE);
        assert_eq!(whole.len(), 1);
        // An offset into itself, and one beyond all.
        table[..4].copy_from_slice(&8_u32.to_le_bytes());
        assert_eq!(entries(&table, BASE).len(), 1);
        table[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(entries(&table, BASE).len(), 1);
        table.truncate(ENTRY - 1);
        assert_eq!(entries(&table, BASE).len(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..1000), base in any::<u64>()) {
            let _ = entries(&bytes, base);
        }
    }
}
