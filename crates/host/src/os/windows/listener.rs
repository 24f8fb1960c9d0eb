//! There is no listener on Windows: it says so when it is to be made.

use std::time::Duration;

use crate::listen::{Address, Event, ListenError, Lookout};
use crate::ties::{Tie, TiesError};

/// A listener. There is none on this system, so no value of this exists.
#[derive(Debug)]
pub enum Listener {}

impl Listener {
    /// Refuses.
    ///
    /// # Errors
    /// [`ListenError::NotHere`], always.
    pub fn bind<T: AsRef<str>>(
        _addresses: &[T],
        _limit: Duration,
        _lookout: Box<dyn Lookout>,
    ) -> Result<Self, ListenError> {
        Err(ListenError::NotHere("Windows"))
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        match *self {}
    }

    /// From now on lets this user's other commands know which VM's beacon lies where.
    ///
    /// # Errors
    /// [`TiesError`].
    pub fn record_ties(&mut self) -> Result<(), TiesError> {
        match *self {}
    }

    /// From now on carries bells between tied agents and this user's programs.
    ///
    /// # Errors
    /// [`TiesError`].
    pub fn relay_bells(&mut self) -> Result<(), TiesError> {
        match *self {}
    }

    /// Which VM's beacon lies where.
    #[must_use]
    pub fn ties(&self) -> Vec<Tie> {
        match *self {}
    }

    /// Serves whoever wants something, or waits up to `patience` for that.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn turn(
        &mut self,
        _patience: Duration,
        _tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ListenError> {
        match *self {}
    }
}
