//! What a picture is made of, before it is written in any format.

/// Where a text hangs on its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// The two faces: one for words, one for numbers that stand below each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Face {
    Words,
    Numbers,
}

/// One thing to draw; later ones lie on top.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Rectangle {
        x: f64,
        y: f64,
        width: f64,
        height: f64,
        radius: f64,
        fill: String,
        stroke: Option<&'static str>,
    },
    Polygon {
        points: Vec<(f64, f64)>,
        fill: String,
        opacity: f64,
    },
    Line {
        from: (f64, f64),
        to: (f64, f64),
        stroke: String,
        width: f64,
    },
    Text {
        x: f64,
        y: f64,
        size: f64,
        anchor: Anchor,
        face: Face,
        fill: &'static str,
        content: String,
    },
}

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawing {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) shapes: Vec<Shape>,
}

impl Drawing {
    pub(super) fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.shapes.push(Shape::Rectangle {
            x,
            y,
            width,
            height,
            radius: 0.0,
            fill: fill.to_owned(),
            stroke: None,
        });
    }

    pub(super) fn frame(&mut self, x: f64, y: f64, width: f64, height: f64, stroke: &'static str) {
        self.shapes.push(Shape::Rectangle {
            x,
            y,
            width,
            height,
            radius: 2.0,
            fill: "none".to_owned(),
            stroke: Some(stroke),
        });
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        self.shapes.push(Shape::Line {
            from,
            to,
            stroke: stroke.to_owned(),
            width,
        });
    }

    pub(super) fn polygon(&mut self, points: &[(f64, f64)], fill: &str, opacity: f64) {
        self.shapes.push(Shape::Polygon {
            points: points.to_vec(),
            fill: fill.to_owned(),
            opacity,
        });
    }

    pub(super) fn words(&mut self, x: f64, y: f64, size: f64, fill: &'static str, text: &str) {
        self.text(x, y, size, Anchor::Start, Face::Words, fill, text);
    }

    pub(super) fn numbers(
        &mut self,
        x: f64,
        y: f64,
        anchor: Anchor,
        fill: &'static str,
        text: &str,
    ) {
        self.text(x, y, 12.0, anchor, Face::Numbers, fill, text);
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the two short forms above name the rest"
    )]
    pub(super) fn text(
        &mut self,
        x: f64,
        y: f64,
        size: f64,
        anchor: Anchor,
        face: Face,
        fill: &'static str,
        content: &str,
    ) {
        self.shapes.push(Shape::Text {
            x,
            y,
            size,
            anchor,
            face,
            fill,
            content: content.to_owned(),
        });
    }
}

/// About how wide a text is.
pub(super) fn text_width(content: &str, size: f64, face: Face) -> f64 {
    let each = match face {
        Face::Words => 0.53,
        Face::Numbers => 0.605,
    };
    content.chars().count() as f64 * size * each
}

/// A text cut to fit a width.
pub(super) fn fitted(content: &str, size: f64, face: Face, width: f64) -> String {
    if text_width(content, size, face) <= width {
        return content.to_owned();
    }
    let mut short: String = String::new();
    for character in content.chars() {
        short.push(character);
        if text_width(&short, size, face) + size > width {
            break;
        }
    }
    short.push('…');
    short
}
