//! Renders a picture's SVG into a PNG, twice as fine, with faces that are part of the
//! program: a host need not have any installed. No file and no network is read.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, fontdb};

use super::axis::whole;
use crate::failure::Failure;

/// Pixels for each unit of the drawing.
const SCALE: f32 = 2.0;
/// Larger pictures are drawn at a smaller scale.
const MOST_PIXELS: f32 = 60_000_000.0;

/// The PNG's bytes.
pub(super) fn render(svg: &str) -> Result<Vec<u8>, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::from_error(error, None).because("rendering the picture")
    };
    let mut fonts = fontdb::Database::new();
    for face in [
        epaint_default_fonts::UBUNTU_LIGHT,
        epaint_default_fonts::HACK_REGULAR,
    ] {
        fonts.load_font_source(fontdb::Source::Binary(Arc::new(face)));
    }
    let options = usvg::Options {
        fontdb: Arc::new(fonts),
        // A picture of ours refers to nothing outside itself.
        resources_dir: None,
        ..usvg::Options::default()
    };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| failed(&error))?;
    let size = tree.size();
    let scale = SCALE.min((MOST_PIXELS / (size.width() * size.height())).sqrt());
    let pixels = |length: f32| {
        let count = whole(f64::from((length * scale).ceil()));
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let mut pixmap = Pixmap::new(pixels(size.width()), pixels(size.height()))
        .ok_or_else(|| Failure::new("the picture has no size", None))?;
    resvg::render(
        &tree,
        Transform::from_scale(scale, scale),
        &mut pixmap.as_mut(),
    );
    pixmap.encode_png().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_drawn_without_any_font_of_the_host() {
        let svg = |content: &str| {
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"90\" height=\"30\"><text x=\"5\" y=\"20\" font-family=\"Ubuntu\" font-size=\"16\">{content}</text></svg>"
            )
        };
        let empty = render(&svg("")).expect("rendered");
        let full = render(&svg("guest")).expect("rendered");
        let ink = |png: &[u8]| {
            let pixmap = Pixmap::decode_png(png).expect("a PNG");
            assert_eq!((pixmap.width(), pixmap.height()), (180, 60));
            pixmap
                .pixels()
                .iter()
                .filter(|pixel| pixel.alpha() > 0)
                .count()
        };
        assert_eq!(ink(&empty), 0);
        assert!(ink(&full) > 300, "{}", ink(&full));
    }
}
