//! Writes a picture: beside its place first, and renamed when it is whole.

use std::path::Path;

use vmshm_host::inspect::Inspection;

use super::{draw, png, svg};
use crate::failure::Failure;
use crate::output::ByteSink;

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
    let mut sink = ByteSink::open(Some(path), 0)?;
    sink.put(&bytes)
        .map_err(|error| Failure::from_error(&error, None).because("writing the picture"))?;
    sink.finish()
}
