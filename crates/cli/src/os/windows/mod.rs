//! Windows: console control events, console modes, access lists of files, process handles. Refuses nothing by itself;
//! what Windows cannot do is said in `words`.

mod broker;
mod files;
mod monitor_program;
mod owner;
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

/// An open file, or an event, that is lent.
pub(crate) type Descriptor<'a> = std::os::windows::io::BorrowedHandle<'a>;

/// Takes the BOOL of a call for what it says.
fn check(result: windows_sys::core::BOOL) -> std::io::Result<()> {
    if result == 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Text as the system's functions take it: UTF-16 with a zero at its end.
fn wide(text: &std::ffi::OsStr) -> Vec<u16> {
    use std::os::windows::ffi::OsStrExt;
    text.encode_wide().chain([0]).collect()
}
