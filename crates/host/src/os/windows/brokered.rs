//! No broker runs on Windows: there is nothing to graft with. The same names as on Linux, of
//! which no value can be made.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::control::{EndCause, RegionReply, Reply, Request};
use vmshm_link::directory::RegionEntry;
use vmshm_ram::{FileRuns, OpenError, Protection, View};

use crate::brokered::BrokerError;
use crate::brokered::wire::Machine;
use crate::conversation::Question;
use crate::ending::{Condition, SessionEnd};
use crate::right::WriteRight;
use crate::session::RequestError;
use crate::source::Source;

/// A session that a broker keeps.
#[derive(Debug)]
pub(crate) enum Brokered {}

/// Whether such a session has ended.
#[derive(Debug, Clone)]
pub(crate) enum BrokeredRight {}

/// Files that a broker has sent.
#[derive(Debug, Clone)]
pub(crate) enum Files {}

/// One of them.
#[derive(Debug)]
pub(crate) enum RegionFile {}

fn absent(path: &Path) -> BrokerError {
    BrokerError::Connect {
        path: path.to_owned(),
        error: std::io::ErrorKind::Unsupported.into(),
    }
}

/// What a broker would give.
///
/// # Errors
/// [`BrokerError`], always.
pub fn list_of_broker(
    path: &Path,
    _: Duration,
) -> Result<Vec<(Machine, Vec<RegionEntry>)>, BrokerError> {
    Err(absent(path))
}

/// What another process needs for mapping memory that is all of a file: here none is.
pub(crate) const fn whole_file(_: &View) -> Option<FileRuns<'_>> {
    None
}

impl BrokeredRight {
    pub(crate) fn check(&self) -> Result<(), LinkError> {
        match *self {}
    }
}

impl Files {
    pub(crate) fn take(
        &self,
        _: &RegionReply,
        _: Protection,
    ) -> Result<Arc<RegionFile>, RequestError> {
        match *self {}
    }
}

impl RegionFile {
    pub(crate) fn view(&self, _: Protection) -> Result<View, OpenError> {
        match *self {}
    }

    pub(crate) fn runs(&self) -> FileRuns<'_> {
        match *self {}
    }
}

impl Brokered {
    pub(crate) fn open(path: &Path, _: &str, _: Duration) -> Result<Self, BrokerError> {
        Err(absent(path))
    }

    pub(crate) fn name(&self) -> &str {
        match *self {}
    }

    pub(crate) fn pid(&self) -> u32 {
        match *self {}
    }

    pub(crate) fn slot_index(&self) -> Option<usize> {
        match *self {}
    }

    pub(crate) fn right(&self) -> Option<WriteRight> {
        match *self {}
    }

    pub(crate) fn source(&self) -> Source {
        match *self {}
    }

    pub(crate) fn keep(&mut self) -> Result<Condition, SessionEnd> {
        match *self {}
    }

    pub(crate) fn look_now(&mut self) -> Result<Condition, SessionEnd> {
        match *self {}
    }

    pub(crate) fn why_it_ended(&mut self, _: LinkError) -> SessionEnd {
        match *self {}
    }

    pub(crate) fn ask(&mut self, _: &Request) -> Result<Option<Question>, SessionEnd> {
        match *self {}
    }

    pub(crate) fn tell(&mut self, _: &Request) -> Result<bool, SessionEnd> {
        match *self {}
    }

    pub(crate) fn answer(&mut self, _: Question) -> Result<Option<Reply>, SessionEnd> {
        match *self {}
    }

    pub(crate) fn give_up(&mut self, _: Question) {
        match *self {}
    }

    pub(crate) fn late_grants(&mut self) -> Result<Vec<u64>, SessionEnd> {
        match *self {}
    }

    pub(crate) fn regions_told_over(&mut self) -> Vec<(u64, EndCause)> {
        match *self {}
    }

    pub(crate) fn regions(&mut self, _: Duration) -> Result<Vec<RegionEntry>, RequestError> {
        match *self {}
    }
}
