//! `vmshm broker` is refused on Windows, with the reason.

use crate::arguments::Global;
use crate::commands::broker::Broker;
use crate::failure::Failure;

/// Says that it cannot be done.
pub(crate) fn run_broker(broker: &Broker, _: &Global) -> Result<(), Failure> {
    tracing::debug!(?broker, "asked for");
    Err(Failure::new(
        "regions cannot be handed to other users on Windows hosts: each would have to be grafted first",
        None,
    ))
}
