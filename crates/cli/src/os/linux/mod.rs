//! Linux: signals, `poll`, modes of files, process groups.

mod broker;
mod files;
mod monitor_program;
mod process;
mod region_graft;
mod signals;
mod streams;
mod words;

pub(crate) use broker::run_broker;
pub(crate) use files::{
    create_partial, free_room, is_stream, make_sparse, new_place, open_stream, start_of_name,
    write_all_at,
};
pub(crate) use monitor_program::{MONITOR_PROGRAM, is_program, processor_time, words_for_end};
pub(crate) use process::{Parent, keep_apart};
pub(crate) use region_graft::{graft_region, grafted_regions};
pub(crate) use signals::Signals;
pub(crate) use streams::{
    descriptor, prepare_streams, reader_has_left, shows_colour, standard_output, wait,
};
pub(crate) use words::{
    FILE_TOO_LARGE_HINT, GRAFT_REFUSAL, NO_MACHINE_HINT, hidden_machines, hint_for, pattern_bytes,
};

/// An open file that is lent.
pub(crate) type Descriptor<'a> = std::os::fd::BorrowedFd<'a>;
