//! A region as a host process holds it: its extents fetched, laid out as one linear
//! memory, and proved page by page before its first use.

use std::sync::Arc;
use std::time::Duration;

use vmshm_link::beacon::PAGE;
use vmshm_link::control::{RegionReply, Reply, Request};
use vmshm_link::directory::RegionKind;
use vmshm_link::mix::mix;
use vmshm_link::{Extent, LinkError, proof};
use vmshm_ram::{BlockPiece, GuestRam, Layout, Protection, View, merge_pieces};

use crate::copied::Copied;
use crate::deadline::Deadline;
use crate::os::{GraftGround, end_undoing, graft_pages, lay_out_over_graft, while_nobody_grafts};
use crate::session::{RequestError, Session, region_name};

/// A region that this session holds.
#[derive(Debug, Clone)]
pub struct Region {
    /// Its number.
    pub id: u64,
    /// Its bytes.
    pub memory: Arc<View>,
    /// Its pages in the guest, in its own order. None where a broker gave it, which does not
    /// tell.
    pub extents: Vec<Extent>,
}

impl Session {
    /// Makes a region that stays until it is removed.
    ///
    /// # Errors
    /// [`RequestError`]; nothing stays behind then that could be used.
    pub fn create_region(
        &mut self,
        name: &str,
        kind: RegionKind,
        size: u64,
        timeout: Duration,
    ) -> Result<Region, RequestError> {
        let name = region_name(name)?;
        let reply = self.request(&Request::Create { kind, size, name }, timeout)?;
        self.hold(reply, timeout)
    }

    /// Opens a region. A pipe that is not there is made with `size` bytes.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn open_region(
        &mut self,
        name: &str,
        kind: RegionKind,
        size: u64,
        timeout: Duration,
    ) -> Result<Region, RequestError> {
        let name = region_name(name)?;
        let reply = self.request(&Request::Open { kind, size, name }, timeout)?;
        self.hold(reply, timeout)
    }

    /// Where a raw region's pages are in the guest, as its agent tells it. Nothing of
    /// the region is read or proved.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn region_extents(
        &mut self,
        name: &str,
        timeout: Duration,
    ) -> Result<Vec<Extent>, RequestError> {
        let kind = RegionKind::Raw;
        let name = region_name(name)?;
        let reply = self.request(
            &Request::Open {
                kind,
                size: 0,
                name,
            },
            timeout,
        )?;
        let Reply::Region(granted) = reply else {
            return Err(unexpected().into());
        };
        let source = self.source();
        let mut ask = |request: &Request| self.request(request, timeout);
        let extents = source.fetch_extents(&granted, timeout, &mut ask);
        let region = granted.region;
        let closed = self.request(&Request::Close { region }, timeout);
        let extents = extents?;
        closed?;
        Ok(extents)
    }

    /// Lets go of a region.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn close_region(&mut self, region: &Region, timeout: Duration) -> Result<(), RequestError> {
        let request = Request::Close { region: region.id };
        self.request(&request, timeout).map(drop)
    }

    pub(crate) fn hold(&mut self, reply: Reply, timeout: Duration) -> Result<Region, RequestError> {
        let Reply::Region(granted) = reply else {
            return Err(unexpected().into());
        };
        let source = self.source();
        let mut ask = |request: &Request| self.request(request, timeout);
        let result = source.lay_out(&granted, Protection::ReadWrite, timeout, &mut ask);
        match &result {
            Ok(region) => self.watch_memory(&region.memory),
            Err(_) => {
                let close = Request::Close {
                    region: granted.region,
                };
                // The first error is the one to tell.
                let _ = self.request(&close, timeout);
            }
        }
        result
    }
}

/// Where a session's regions lie: what laying one out needs beside the agent's answers.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) copied: Arc<Copied>,
    pub(crate) graft: GraftGround,
}

/// Asks the agent and waits for its answer.
pub(crate) type Ask<'a> = &'a mut dyn FnMut(&Request) -> Result<Reply, RequestError>;

impl Ground {
    /// Lays a granted region out as one memory and proves it, unless another host process
    /// has. `timeout` bounds the answers about its extents taken together.
    ///
    /// # Errors
    /// [`RequestError`]; the agent still counts the region as held then.
    pub(crate) fn lay_out(
        &self,
        granted: &RegionReply,
        protection: Protection,
        timeout: Duration,
        ask: Ask<'_>,
    ) -> Result<Region, RequestError> {
        let pages = |error: &dyn std::error::Error| RequestError::Pages(error.to_string());
        let extents = self.fetch_extents(granted, timeout, ask)?;
        let pieces = self.pieces(&extents)?;
        let placement = placement(&pieces);
        if granted.ready && granted.placement != placement {
            // Another host process saw the proof; we look at the same pages only if we
            // come to the same place.
            return Err(RequestError::Pages(
                "they were proved at another place in the VM's memory".to_owned(),
            ));
        }
        if self.ram.is_to_be_grafted() {
            return lay_out_over_graft(self, granted, (extents, &pieces), protection, ask);
        }
        // A graft that is being made would leave this with the old pages, and one that is made
        // later must know of those that are copied.
        let memory = while_nobody_grafts(&self.graft, || {
            let memory = Arc::new(self.ram.view(&pieces, protection).map_err(|e| pages(&e))?);
            if protection == Protection::ReadWrite {
                self.copied.add(granted.region, &memory)?;
            }
            Ok::<_, RequestError>(memory)
        })??;
        if !granted.ready {
            proof::verify_pattern(&memory, granted.key, granted.region)?;
            ask(&Request::Proved {
                region: granted.region,
                placement,
            })?;
        }
        Ok(Region {
            id: granted.region,
            memory,
            extents,
        })
    }

    /// Where a granted region lies that is only read, and therefore never proved.
    ///
    /// # Errors
    /// As [`lay_out`](Self::lay_out).
    pub(crate) fn locate(
        &self,
        granted: &RegionReply,
        timeout: Duration,
        ask: Ask<'_>,
    ) -> Result<Vec<BlockPiece>, RequestError> {
        let extents = self.fetch_extents(granted, timeout, ask)?;
        self.pieces(&extents)
    }

    /// Grafts pages that are only read and therefore were never proved, if regions are to be
    /// grafted; else leaves no graft of them half undone.
    ///
    /// # Errors
    /// [`RequestError::Graft`].
    pub(crate) fn see_to_graft(
        &self,
        region: u64,
        pieces: &[BlockPiece],
    ) -> Result<(), RequestError> {
        if self.ram.is_to_be_grafted() {
            graft_pages(self, region, pieces)
        } else {
            end_undoing(&self.graft)
        }
    }

    /// Where extents lie in the VMM's RAM blocks.
    ///
    /// # Errors
    /// [`RequestError::Pages`] where that is not known of all of them.
    pub(crate) fn pieces(&self, extents: &[Extent]) -> Result<Vec<BlockPiece>, RequestError> {
        let pieces = self.layout.pieces(extents);
        Ok(merge_pieces(
            &pieces.map_err(|error| RequestError::Pages(error.to_string()))?,
        ))
    }

    pub(crate) fn fetch_extents(
        &self,
        granted: &RegionReply,
        timeout: Duration,
        ask: Ask<'_>,
    ) -> Result<Vec<Extent>, RequestError> {
        let impossible = granted.size == 0
            || !granted.size.is_multiple_of(PAGE)
            || granted.size > self.ram.blocks().map(|block| block.length).sum()
            || granted.extents == 0
            || granted.extents > granted.size / PAGE;
        if impossible {
            return Err(LinkError::Violation {
                what: "the size of a region",
                value: granted.size,
            }
            .into());
        }
        let mut extents = Vec::new();
        let mut total = 0_u64;
        // The guest chooses how many an answer has, so all answers share one limit.
        let deadline = Deadline::after(timeout);
        while (extents.len() as u64) < granted.extents {
            let first = extents.len() as u64;
            if first > 0 && deadline.has_passed() {
                return Err(RequestError::Pages(format!(
                    "vmshm-agent named {first} of {} extents within {} s",
                    granted.extents,
                    timeout.as_secs_f32()
                )));
            }
            let request = Request::Extents {
                region: granted.region,
                first,
            };
            let Reply::Extents(part) = ask(&request)? else {
                return Err(unexpected().into());
            };
            for extent in part.extents() {
                let whole = extent.start.is_aligned_to(PAGE)
                    && extent.length.is_multiple_of(PAGE)
                    && extent.length > 0
                    && extent.end().is_some();
                total = total.saturating_add(extent.length);
                if !whole || part.first != first || total > granted.size {
                    return Err(LinkError::Violation {
                        what: "a region's extent",
                        value: extent.start.0,
                    }
                    .into());
                }
                extents.push(*extent);
            }
        }
        if total == granted.size && extents.len() as u64 == granted.extents {
            Ok(extents)
        } else {
            Err(LinkError::Violation {
                what: "the sum of a region's extents",
                value: total,
            }
            .into())
        }
    }
}

pub(crate) const fn unexpected() -> LinkError {
    LinkError::Violation {
        what: "the kind of the agent's answer",
        value: 0,
    }
}

/// A number for where a region's pieces lie in the VMM's RAM blocks. Never zero.
pub(crate) fn placement(pieces: &[BlockPiece]) -> u64 {
    pieces
        .iter()
        .fold(1, |sum, piece| {
            let place = mix(piece.at.block as u64, piece.at.offset);
            mix(sum, mix(place, piece.length))
        })
        .max(1)
}
