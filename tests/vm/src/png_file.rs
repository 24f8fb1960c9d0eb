//! Pictures as the command writes them and as the guest's own tools see them.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// A picture without transparency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Red, green and blue of each pixel, row by row.
    pub colours: Vec<u8>,
}

impl Picture {
    /// Reads a PNG file of 8 bits for each colour.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut reader = png::Decoder::new(BufReader::new(file))
            .read_info()
            .expect("it is a PNG file");
        let mut bytes = vec![0; reader.output_buffer_size().expect("it has a size")];
        let info = reader.next_frame(&mut bytes).expect("it is whole");
        assert_eq!(info.bit_depth, png::BitDepth::Eight);
        bytes.truncate(info.buffer_size());
        let colours = match info.color_type {
            png::ColorType::Rgb => bytes,
            png::ColorType::Rgba => bytes
                .chunks_exact(4)
                .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]])
                .collect(),
            other => panic!("no picture of a screen: {other:?}"),
        };
        Self {
            width: info.width,
            height: info.height,
            colours,
        }
    }

    /// As a portable pixmap, byte for byte what `grim -t ppm` writes.
    #[must_use]
    pub fn to_ppm(&self) -> Vec<u8> {
        let mut bytes = format!("P6\n{} {}\n255\n", self.width, self.height).into_bytes();
        bytes.extend(&self.colours);
        bytes
    }

    /// The colours of a pixel.
    ///
    /// # Panics
    /// When it lies outside.
    #[must_use]
    pub fn at(&self, x: u32, y: u32) -> [u8; 3] {
        let index = (y as usize * self.width as usize + x as usize) * 3;
        [
            self.colours[index],
            self.colours[index + 1],
            self.colours[index + 2],
        ]
    }

    /// Where in this picture `other` lies, pixel by pixel: its upper left corner.
    #[must_use]
    pub fn find(&self, other: &Self) -> Option<(u32, u32)> {
        let right = self.width.checked_sub(other.width)?;
        let bottom = self.height.checked_sub(other.height)?;
        let places = (0..=bottom).flat_map(|y| (0..=right).map(move |x| (x, y)));
        let mut places = places.filter(|(x, y)| self.at(*x, *y) == other.at(0, 0));
        places.find(|(x, y)| {
            (0..other.height)
                .all(|row| self.row(*x, y + row, other.width) == other.row(0, row, other.width))
        })
    }

    fn row(&self, x: u32, y: u32, width: u32) -> &[u8] {
        let start = (y as usize * self.width as usize + x as usize) * 3;
        &self.colours[start..start + width as usize * 3]
    }
}
