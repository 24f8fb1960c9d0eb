//! The wire under test from outside: models, hostile peers, rollbacks, deaths at every
//! step, and two threads at full speed. What the model checker does is in `loom`.
#![cfg(not(loom))]

mod fixed_ring_model;
mod frames_model;
mod frames_slots;
mod hostile_fixed_ring;
mod hostile_frames;
mod hostile_ring;
mod hostile_session;
mod latest_model;
mod link_deaths;
mod link_rollback;
mod link_stress;
mod material;
mod one_writer;
mod ring_model;
mod rollback;
mod slot_deaths;
mod stream_model;
mod stress;
mod test_card;
mod unreachable;
mod untrusted_control;
mod untrusted_messages;
mod untrusted_pages;
