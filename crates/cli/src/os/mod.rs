//! What the command asks of the operating system beyond what `std` has: the user's wish to stop, standard streams,
//! files that appear whole, the process that started this one, and words for what only this system does. One module
//! per system, all with the same names and meanings; everything outside of `os` is the same on every system.
//!
//! - [`Signals`]: Ctrl-C and its like, as a flag and as something that can be waited for.
//! - [`Descriptor`]: how this system names an open file that is lent.
//! - `prepare_streams`, `standard_output`, `descriptor`, `shows_colour`, `reader_has_left`, `wait`: standard streams.
//! - `is_stream`, `open_stream`, `new_place`, `create_partial`, `start_of_name`, `make_sparse`, `write_all_at`, `free_room`: files.
//! - `MONITOR_PROGRAM`, `is_program`, `words_for_end`, `processor_time`: the program that shows screens.
//! - `graft_region`: the command `region graft`, or why there is none; `grafted_regions`: which are grafted.
//! - `keep_apart`, [`Parent`]: the reaper and who started it.
//! - `pattern_bytes`, `hidden_machines`, `hint_for`, and the constants: arguments and words.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    Descriptor, FILE_TOO_LARGE_HINT, GRAFT_REFUSAL, NO_MACHINE_HINT, Parent, Signals,
    create_partial, descriptor, free_room, hidden_machines, hint_for, is_stream, keep_apart,
    make_sparse, new_place, open_stream, pattern_bytes, prepare_streams, reader_has_left,
    run_broker, shows_colour, standard_output, start_of_name, wait, write_all_at,
};
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    MONITOR_PROGRAM, graft_region, grafted_regions, is_program, processor_time, words_for_end,
};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{
    Descriptor, FILE_TOO_LARGE_HINT, GRAFT_REFUSAL, NO_MACHINE_HINT, Parent, Signals,
    create_partial, descriptor, free_room, hidden_machines, hint_for, is_stream, keep_apart,
    make_sparse, new_place, open_stream, pattern_bytes, prepare_streams, reader_has_left,
    run_broker, shows_colour, standard_output, start_of_name, wait, write_all_at,
};
#[cfg(windows)]
pub(crate) use windows::{
    MONITOR_PROGRAM, graft_region, grafted_regions, is_program, processor_time, words_for_end,
};
