//! Makes a mapping of what the system says of a run of pages (`MEMORY_BASIC_INFORMATION`): who
//! may do what with it, and whether others share it. The constants are `winnt.h`'s.

use crate::address::VmmVirtual;
use crate::mapping::MemoryMapping;

const STATE_COMMIT: u32 = 0x1000;
const STATE_RESERVE: u32 = 0x2000;
const KIND_MAPPED: u32 = 0x4_0000;
const KIND_IMAGE: u32 = 0x100_0000;
const PAGE_READONLY: u32 = 0x02;
const PAGE_READWRITE: u32 = 0x04;
const PAGE_WRITECOPY: u32 = 0x08;
const PAGE_EXECUTE: u32 = 0x10;
const PAGE_EXECUTE_READ: u32 = 0x20;
const PAGE_EXECUTE_READWRITE: u32 = 0x40;
const PAGE_EXECUTE_WRITECOPY: u32 = 0x80;
/// The first access raises an exception: stacks end in such a page.
const PAGE_GUARD: u32 = 0x100;

/// A run of pages as the system describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) state: u32,
    pub(super) protection: u32,
    pub(super) kind: u32,
}

impl Region {
    /// Whether the system may have a file's name for it.
    pub(super) const fn may_have_name(&self) -> bool {
        self.state == STATE_COMMIT && (self.kind == KIND_MAPPED || self.kind == KIND_IMAGE)
    }

    /// The mapping; nothing for free addresses. `name` is the file's. Sections have no number
    /// that others could compare, so no mapping has a file identity.
    pub(super) fn mapping(&self, name: String) -> Option<MemoryMapping> {
        let is_there = self.state == STATE_COMMIT;
        if self.length == 0 || !(is_there || self.state == STATE_RESERVE) {
            return None;
        }
        self.start.checked_add(self.length)?;
        let protection = self.protection & 0xff;
        let is_open = is_there && self.protection & PAGE_GUARD == 0;
        let is_one_of = |kinds: &[u32]| is_open && kinds.contains(&protection);
        let copies = [PAGE_WRITECOPY, PAGE_EXECUTE_WRITECOPY].contains(&protection);
        let is_image = self.kind == KIND_IMAGE;
        Some(MemoryMapping {
            start: VmmVirtual(self.start),
            length: self.length,
            readable: is_one_of(&[
                PAGE_READONLY,
                PAGE_READWRITE,
                PAGE_WRITECOPY,
                PAGE_EXECUTE_READ,
                PAGE_EXECUTE_READWRITE,
                PAGE_EXECUTE_WRITECOPY,
            ]),
            writable: is_one_of(&[
                PAGE_READWRITE,
                PAGE_WRITECOPY,
                PAGE_EXECUTE_READWRITE,
                PAGE_EXECUTE_WRITECOPY,
            ]),
            executable: is_one_of(&[
                PAGE_EXECUTE,
                PAGE_EXECUTE_READ,
                PAGE_EXECUTE_READWRITE,
                PAGE_EXECUTE_WRITECOPY,
            ]),
            shared: self.kind == KIND_MAPPED && !copies,
            file: None,
            name: match name {
                // A program's own pages are no memory that it allocated.
                empty if empty.is_empty() && is_image => "[image]".to_owned(),
                empty if empty.is_empty() && copies => "[copy]".to_owned(),
                named => named,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND_PRIVATE: u32 = 0x2_0000;

    fn region(state: u32, protection: u32, kind: u32) -> Region {
        Region {
            start: 0x7ff0_0000,
            length: 0x10_0000,
            state,
            protection,
            kind,
        }
    }

    fn seen(state: u32, protection: u32, kind: u32) -> Option<(bool, bool, bool, bool)> {
        let mapping = region(state, protection, kind).mapping(String::new())?;
        Some((
            mapping.readable,
            mapping.writable,
            mapping.executable,
            mapping.shared,
        ))
    }

    #[test]
    fn private_memory_may_be_ram_and_images_stacks_and_copies_are_not() {
        let heap = region(STATE_COMMIT, PAGE_READWRITE, KIND_PRIVATE).mapping(String::new());
        assert!(heap.is_some_and(|mapping| mapping.is_private_anonymous() && mapping.writable));
        let guard = seen(STATE_COMMIT, PAGE_READWRITE | PAGE_GUARD, KIND_PRIVATE);
        assert_eq!(guard, Some((false, false, false, false)));
        for (protection, kind) in [
            (PAGE_READWRITE, KIND_IMAGE),
            (PAGE_WRITECOPY, KIND_IMAGE),
            (PAGE_WRITECOPY, KIND_MAPPED),
        ] {
            let mapping = region(STATE_COMMIT, protection, kind).mapping(String::new());
            let mapping = mapping.expect("it is there");
            assert!(!mapping.is_private_anonymous() && !mapping.shared);
        }
    }

    #[test]
    fn views_are_shared_and_what_is_only_reserved_cannot_be_read() {
        let view = seen(STATE_COMMIT, PAGE_READWRITE, KIND_MAPPED);
        assert_eq!(view, Some((true, true, false, true)));
        let reserved = seen(STATE_RESERVE, 0, KIND_PRIVATE);
        assert_eq!(reserved, Some((false, false, false, false)));
        assert_eq!(seen(0x1_0000, 0, 0), None, "free");
        let odd = Region {
            start: u64::MAX,
            ..region(STATE_COMMIT, PAGE_READWRITE, KIND_PRIVATE)
        };
        assert_eq!(odd.mapping(String::new()), None);
    }
}
