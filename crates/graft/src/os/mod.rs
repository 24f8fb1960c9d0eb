//! What the kernel offers to stop and change another process: tracing (`tracee`), and
//! access to its memory and its files (`memory`), and what of its memory was written
//! (`tracking`). The only modules of this crate with
//! `unsafe`. They decide nothing and wait for nobody.

#![allow(
    unsafe_code,
    reason = "ptrace, copying another process's memory and mapping a file are raw system calls"
)]

mod memory;
mod tracee;
mod tracking;

pub(crate) use memory::{FileView, Run, read_memory, write_memory};
pub(crate) use tracee::{
    Registers, Stop, detach, dispatches_calls, extended_state, filter, interrupt, registers,
    resume_to_call, resume_with, rseq, seize, set_registers, set_signal_mask, shares_memory,
    signal_mask, wait,
};
pub(crate) use tracking::{TRACKING_FLAGS, Tracking};
