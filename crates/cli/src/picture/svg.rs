//! Writes a drawing as SVG. Every text is escaped, and what XML cannot hold is replaced:
//! names in it were chosen by the guest.

use std::fmt::Write as _;

use super::shapes::{Anchor, Drawing, Face, Shape};

/// The families, the ones that are drawn with into a PNG first.
const WORDS: &str = "Ubuntu, 'DejaVu Sans', 'Segoe UI', sans-serif";
const NUMBERS: &str = "Hack, 'DejaVu Sans Mono', Consolas, monospace";

/// The whole document.
pub(super) fn write(drawing: &Drawing) -> String {
    let (width, height) = (drawing.width, drawing.height);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n"
    );
    for shape in &drawing.shapes {
        write_shape(&mut text, shape);
        text.push('\n');
    }
    text.push_str("</svg>\n");
    text
}

fn write_shape(text: &mut String, shape: &Shape) {
    // Writing to a string does not fail.
    let _ = match shape {
        Shape::Rectangle {
            x,
            y,
            width,
            height,
            radius,
            fill,
            stroke,
        } => write!(
            text,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" rx=\"{radius}\" fill=\"{fill}\" stroke=\"{}\"/>",
            stroke.unwrap_or("none")
        ),
        Shape::Polygon {
            points,
            fill,
            opacity,
        } => {
            let points: Vec<String> = points
                .iter()
                .map(|(x, y)| format!("{x:.2},{y:.2}"))
                .collect();
            write!(
                text,
                "<polygon points=\"{}\" fill=\"{fill}\" fill-opacity=\"{opacity}\"/>",
                points.join(" ")
            )
        }
        Shape::Line {
            from,
            to,
            stroke,
            width,
        } => write!(
            text,
            "<line x1=\"{:.2}\" y1=\"{:.2}\" x2=\"{:.2}\" y2=\"{:.2}\" stroke=\"{stroke}\" stroke-width=\"{width}\"/>",
            from.0, from.1, to.0, to.1
        ),
        Shape::Text {
            x,
            y,
            size,
            anchor,
            face,
            fill,
            content,
        } => {
            let anchor = match anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let family = match face {
                Face::Words => WORDS,
                Face::Numbers => NUMBERS,
            };
            write!(
                text,
                "<text x=\"{x:.2}\" y=\"{y:.2}\" font-size=\"{size}\" font-family=\"{family}\" text-anchor=\"{anchor}\" fill=\"{fill}\" xml:space=\"preserve\">{}</text>",
                escaped(content)
            )
        }
    };
}

/// Text as it may stand in an element or attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            // XML 1.0 holds no control characters, and these two not either.
            '\u{fffe}' | '\u{ffff}' => safe.push(char::REPLACEMENT_CHARACTER),
            other if other.is_control() => safe.push(char::REPLACEMENT_CHARACTER),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_calls_its_regions_stays_text() {
        assert_eq!(
            escaped("<script>&\"'\u{1b}[31m\u{0}\u{ffff}"),
            "&lt;script&gt;&amp;&quot;&apos;\u{fffd}[31m\u{fffd}\u{fffd}"
        );
    }
}
