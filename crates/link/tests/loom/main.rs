//! The wire under the loom model checker: every interleaving up to a number of
//! preemptions, and every value that the memory orders allow a load to see. Run it by
//! `RUSTFLAGS="--cfg loom" cargo test -p vmshm-link --release --test loom`.
#![cfg(loom)]

mod fixed_ring;
mod frames;
mod latest;
mod memory;
mod pipe;
mod ring;
mod slot;
mod stream;
mod table;

/// Checks `model` over all interleavings with at most `preemptions` switches away from
/// a thread that could have gone on.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}
