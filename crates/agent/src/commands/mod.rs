//! The commands beside `run`: they ask the agent or the keeper, and show the answer.

pub(crate) mod ask;
pub(crate) mod pipe;
pub(crate) mod release;
pub(crate) mod status;
pub(crate) mod translate;
