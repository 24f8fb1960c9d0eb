//! One picture, as PNG into the descriptor that came with the order.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex};

use vmshm_channel::Handed;
use vmshm_channel::sink::FromMonitor;

use super::Failure;
use crate::canvas::{Canvas, Shown, lock};
use crate::feed::{Feed, News, Show};

/// Waits for a picture, writes it, and says so.
///
/// # Errors
/// What the file's system says.
pub fn run(feed: Feed, file: Handed) -> Result<(), Failure> {
    let post = feed.post.clone();
    let mut sink = Sink {
        shown: Arc::clone(&feed.shown),
        file: Some(File::from(file)),
        result: None,
    };
    feed.run(&mut sink);
    match sink.result {
        Some(Ok(())) => {
            post.send(&FromMonitor::PictureDone);
            Ok(())
        }
        Some(Err(error)) => Err(Failure::new(format!("cannot write the picture: {error}"))),
        None => Ok(()),
    }
}

#[derive(Debug)]
struct Sink {
    shown: Arc<Mutex<Shown>>,
    file: Option<File>,
    result: Option<Result<(), png::EncodingError>>,
}

impl Show for Sink {
    fn tell(&mut self, news: News) -> bool {
        let News::Picture(_) = news else {
            return !matches!(news, News::End);
        };
        if let Some(file) = self.file.take() {
            self.result = Some(write_png(&lock(&self.shown).canvas, file));
        }
        false
    }
}

/// Writes a canvas as PNG with 8 bits each of red, green and blue.
fn write_png(canvas: &Canvas, file: impl Write) -> Result<(), png::EncodingError> {
    let (width, height) = canvas.size();
    let mut encoder = png::Encoder::new(BufWriter::new(file), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer()?;
    let mut bytes = Vec::new();
    for row in 0..height {
        bytes.clear();
        bytes.extend(canvas.row(row).iter().flat_map(|pixel| {
            let [blue, green, red, _] = pixel.to_le_bytes();
            [red, green, blue]
        }));
        stream.write_all(&bytes)?;
    }
    stream.finish()?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_read_back_pixel_by_pixel() {
        let mut canvas = Canvas::default();
        assert!(canvas.resize(37, 5));
        for row in 0..5 {
            let bytes = canvas.row_bytes_mut(row, 0, 37).expect("is there");
            for (index, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::try_from((index + 31 * row as usize) % 251).expect("fits");
            }
        }
        let mut written = Vec::new();
        write_png(&canvas, &mut written).expect("succeeds");
        let decoder = png::Decoder::new(std::io::Cursor::new(&written));
        let mut reader = decoder.read_info().expect("succeeds");
        let mut read = vec![0; reader.output_buffer_size().expect("fits")];
        let info = reader.next_frame(&mut read).expect("succeeds");
        assert_eq!((info.width, info.height), (37, 5));
        let expected: Vec<u8> = canvas
            .pixels()
            .iter()
            .flat_map(|pixel| [pixel >> 16, pixel >> 8, *pixel])
            .map(|value| u8::try_from(value & 0xff).expect("fits"))
            .collect();
        assert_eq!(read, expected);
    }
}
