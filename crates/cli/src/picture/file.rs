//! Writes a picture: beside its place first, and renamed when it is whole.

use std::path::Path;

use vmshm_host::inspect::Inspection;

use super::{draw, png, svg};
use crate::failure::Failure;
use crate::output::ByteSink;
use crate::output_file::Readers;

/// Draws what was found into a file; its name says as what.
pub(crate) fn save(inspection: &Inspection, path: &Path) -> Result<(), Failure> {
    let drawing = svg::write(&draw::draw(inspection));
    let is_png = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
    let bytes = if is_png {
        png::render(&drawing)?
    } else {
        drawing.into_bytes()
    };
    let mut sink = ByteSink::open(Some(path), Readers::AsUsual, 0)?;
    match sink.put(&bytes) {
        Ok(()) => sink.finish(),
        Err(error) => ByteSink::give_up(error),
    }
}
