//! Guest RAM, and windows onto parts of it that lie side by side for who uses them. Addresses outside of the RAM are a
//! mistake of the test, and panic; accesses outside of a window are refused as any memory refuses them.

use std::sync::Arc;

use vmshm_link::Extent;
use vmshm_shm::{Fault, SharedMemory};

use crate::plan::Range;

/// What a guest can be played over.
pub trait GuestMemory: SharedMemory + Clone + Send + Sync + 'static {}

impl<M: SharedMemory + Clone + Send + Sync + 'static> GuestMemory for M {}

/// A guest's RAM.
#[derive(Debug, Clone)]
pub(crate) struct Ram<M> {
    memory: M,
    ranges: Vec<Range>,
}

impl<M: GuestMemory> Ram<M> {
    pub(crate) fn new(memory: M, ranges: &[Range]) -> Self {
        Self {
            memory,
            ranges: ranges.to_vec(),
        }
    }

    /// Shows extents one after the other, as one memory.
    pub(crate) fn window(&self, extents: &[Extent]) -> Window<M> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for extent in extents {
            let (first, end) = (extent.start.0, extent.start.0 + extent.length);
            let holds = |range: &&Range| {
                let start = range.extent.start.0;
                first >= start && end <= start + range.extent.length
            };
            let range = self.ranges.iter().find(holds).expect("it is RAM");
            pieces.push(Piece {
                start,
                length: extent.length,
                offset: range.offset + (first - range.extent.start.0),
            });
            start += extent.length;
        }
        Window {
            memory: self.memory.clone(),
            pieces: pieces.into(),
            size: start,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Where it starts in the window.
    start: u64,
    length: u64,
    /// Where it starts in the memory.
    offset: u64,
}

/// Parts of guest RAM, one after the other.
#[derive(Debug, Clone)]
pub struct Window<M> {
    memory: M,
    pieces: Arc<[Piece]>,
    size: u64,
}

impl<M: SharedMemory> Window<M> {
    /// Where `offset` lies in the memory, and how many bytes follow each other there.
    #[inline]
    fn place(&self, offset: u64, length: u64) -> Result<(u64, u64), Fault> {
        let outside = Fault::OutOfBounds {
            offset,
            length,
            size: self.size,
        };
        let inside = |piece: &&Piece| offset >= piece.start && offset - piece.start < piece.length;
        let piece = self.pieces.iter().find(inside).ok_or(outside)?;
        let within = offset - piece.start;
        Ok((piece.offset + within, piece.length - within))
    }

    /// Goes through the parts of a copy: the place in the memory, and the part of the buffer.
    fn parts(
        &self,
        offset: u64,
        length: usize,
        mut part: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let total = length as u64;
        if offset.checked_add(total).is_none_or(|end| end > self.size) {
            return Err(Fault::OutOfBounds {
                offset,
                length: total,
                size: self.size,
            });
        }
        let mut done = 0;
        while done < length {
            let (at, room) = self.place(offset + done as u64, 1)?;
            let count = usize::try_from(room)
                .unwrap_or(usize::MAX)
                .min(length - done);
            part(at, done..done + count)?;
            done += count;
        }
        Ok(())
    }
}

impl<M: SharedMemory> SharedMemory for Window<M> {
    fn size(&self) -> u64 {
        self.size
    }

    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        self.memory.load_relaxed(self.place(offset, 8)?.0)
    }

    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        self.memory.load_acquire(self.place(offset, 8)?.0)
    }

    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.memory.store_relaxed(self.place(offset, 8)?.0, value)
    }

    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.memory.store_release(self.place(offset, 8)?.0, value)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.parts(offset, into.len(), |at, part| {
            self.memory.read(at, &mut into[part])
        })
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        self.parts(offset, from.len(), |at, part| {
            self.memory.write(at, &from[part])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use vmshm_link::GuestPhysical;
    use vmshm_shm::LocalMemory;

    #[test]
    fn a_window_shows_extents_side_by_side_and_nothing_else() {
        let memory = Arc::new(LocalMemory::new(64 << 10));
        let extent = |start, length| Extent {
            start: GuestPhysical(start),
            length,
        };
        let range = |start, length, offset| Range {
            extent: extent(start, length),
            offset,
        };
        let ranges = [range(0, 32 << 10, 0), range(1 << 32, 32 << 10, 32 << 10)];
        let ram = Ram::new(Arc::clone(&memory), &ranges);
        let window = ram.window(&[extent((1 << 32) + 4096, 4096), extent(8192, 4096)]);
        assert_eq!(window.size(), 8192);
        window.write(4090, b"across the border").expect("inside");
        window.store_release(0, 7).expect("inside");
        let mut bytes = [0; 6];
        memory
            .read((32 << 10) + 4096 + 4090, &mut bytes)
            .expect("inside");
        assert_eq!(&bytes, b"across");
        memory.read(8192, &mut bytes).expect("inside");
        assert_eq!(&bytes, b" the b");
        assert_eq!(memory.load_acquire((32 << 10) + 4096), Ok(7));
        assert!(window.load_relaxed(8192).is_err());
        assert!(window.read(8190, &mut [0; 3]).is_err());
        assert!(window.read(u64::MAX, &mut [0; 3]).is_err());
    }

    #[test]
    fn a_split_guest_has_rooms_on_both_sides_of_the_hole() {
        let plan = Plan::split(256 << 20, 128 << 20, 1 << 32);
        assert_eq!(plan.ranges.len(), 2);
        let above = |room: &GuestPhysical| room.0 >= 1 << 32;
        assert!(above(&plan.rooms[1]) && !above(&plan.rooms[0]));
        let last = plan
            .rooms
            .iter()
            .filter(|room| above(room))
            .max()
            .expect("some");
        assert!(last.0 + plan.room <= (1 << 32) + (128 << 20));
    }
}
