//! Guest RAM drawn to scale, as text for a terminal and as a picture. Only shows what an
//! inspection found. Names that the guest chose are shown, and never interpreted.

mod axis;
mod colour;
mod draw;
mod file;
mod png;
mod shapes;
mod svg;
mod tables;
mod text;

pub(crate) use file::save;
pub(crate) use text::{map, percent};
