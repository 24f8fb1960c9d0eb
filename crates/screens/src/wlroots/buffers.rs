//! The pixels region as the compositor sees it: one shared-memory pool, one buffer for each slot.
//!
//! The pool is whole pages: wlroots leaks a mapping of pools that are not.

use std::os::fd::BorrowedFd;

use wayland_client::QueueHandle;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_shm::{Format, WlShm};
use wayland_client::protocol::wl_shm_pool::WlShmPool;

use super::capture::Spec;
use super::desk::Desk;

/// A pool and its buffers.
#[derive(Debug)]
pub struct Buffers {
    pool: WlShmPool,
    spec: Option<Spec>,
    buffers: Vec<(usize, WlBuffer)>,
}

impl Buffers {
    /// Makes the pool over a pixels region of `size` bytes.
    pub fn new(shm: &WlShm, file: BorrowedFd<'_>, size: u64, handle: &QueueHandle<Desk>) -> Self {
        let size = i32::try_from(size).unwrap_or(0x7fff_f000);
        Self {
            pool: shm.create_pool(file, size, handle, ()),
            spec: None,
            buffers: Vec::new(),
        }
    }

    /// The buffer of a slot that begins at `offset`, in the form that the compositor wants.
    /// Nothing for what cannot be.
    pub fn buffer(
        &mut self,
        slot: usize,
        offset: u64,
        spec: &Spec,
        handle: &QueueHandle<Desk>,
    ) -> Option<&WlBuffer> {
        if self.spec != Some(*spec) {
            self.clear();
            self.spec = Some(*spec);
        }
        if let Some(index) = self.buffers.iter().position(|(known, _)| *known == slot) {
            return self.buffers.get(index).map(|(_, buffer)| buffer);
        }
        let number = |value: u32| i32::try_from(value).ok();
        let buffer = self.pool.create_buffer(
            i32::try_from(offset).ok()?,
            number(spec.width)?,
            number(spec.height)?,
            number(spec.stride)?,
            Format::try_from(spec.format).ok()?,
            handle,
            (),
        );
        self.buffers.push((slot, buffer));
        self.buffers.last().map(|(_, buffer)| buffer)
    }

    fn clear(&mut self) {
        for (_, buffer) in self.buffers.drain(..) {
            buffer.destroy();
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.clear();
        self.pool.destroy();
    }
}
