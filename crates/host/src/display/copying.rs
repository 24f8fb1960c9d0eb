//! Copying a part of a picture from a guest's memory into one's own. Places are checked
//! before; what is copied is not looked at.

use vmshm_link::frames::{Place, Rectangle};
use vmshm_shm::{Fault, SharedMemory};

/// Bytes that are copied at once, unless one row has more.
const CHUNK: u64 = 256 << 10;

/// Copies the pixels of `part` from a picture at `from` to one of the same size at `to`.
/// How many bytes were copied.
pub(super) fn copy_part<S: SharedMemory, T: SharedMemory>(
    source: &S,
    from: &Place,
    target: &T,
    to: &Place,
    part: &Rectangle,
    buffer: &mut Vec<u8>,
) -> Result<u64, Fault> {
    if part.is_empty() {
        return Ok(0);
    }
    let row = u64::from(part.width) * 4;
    // Each call costs; what lies between the rows is fetched with them where it is little.
    let whole_rows = row * 10 >= u64::from(from.stride) * 9;
    let rows_at_once = if whole_rows {
        (CHUNK / u64::from(from.stride)).max(1)
    } else {
        1
    };
    let start =
        |place: &Place, y: u64| place.offset + y * u64::from(place.stride) + u64::from(part.x) * 4;
    let (mut y, end) = (
        u64::from(part.y),
        u64::from(part.y) + u64::from(part.height),
    );
    while y < end {
        let rows = rows_at_once.min(end - y);
        let length = (rows - 1) * u64::from(from.stride) + row;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let bytes = buffer.get_mut(..length).unwrap_or_default();
        source.read(start(from, y), bytes)?;
        if from.stride == to.stride {
            if u64::from(to.stride) == row || rows == 1 {
                target.write(start(to, y), bytes)?;
            } else {
                write_rows(target, to, from.stride, row, start(to, y), bytes)?;
            }
        } else {
            write_rows(target, to, from.stride, row, start(to, y), bytes)?;
        }
        y += rows;
    }
    Ok(row * u64::from(part.height))
}

fn write_rows<T: SharedMemory>(
    target: &T,
    to: &Place,
    stride: u32,
    row: u64,
    start: u64,
    bytes: &[u8],
) -> Result<(), Fault> {
    let (stride, row) = (stride as usize, usize::try_from(row).unwrap_or(usize::MAX));
    for (index, pixels) in bytes.chunks(stride).enumerate() {
        let pixels = pixels.get(..row).unwrap_or_default();
        target.write(start + index as u64 * u64::from(to.stride), pixels)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vmshm_link::frames::PixelFormat;
    use vmshm_shm::LocalMemory;

    use super::*;

    fn place(offset: u64, stride: u32) -> Place {
        Place {
            region: 1,
            slot: 0,
            offset,
            width: 70,
            height: 40,
            stride,
            format: PixelFormat::Xrgb8888,
        }
    }

    #[test]
    fn only_the_part_is_copied_whatever_the_strides() {
        let parts = [
            (0, 0, 70, 40),
            (3, 5, 1, 1),
            (0, 39, 70, 1),
            (69, 0, 1, 40),
            (2, 2, 67, 30),
            (5, 5, 0, 7),
        ];
        for (x, y, width, height) in parts {
            for (from, to) in [
                (place(0, 280), place(4096, 280)),
                (place(64, 288), place(0, 280)),
                (place(8, 4000), place(0, 284)),
            ] {
                let source = LocalMemory::new(1 << 18);
                let pattern: Vec<u8> = (0..1_u32 << 18).map(|at| (at % 249) as u8 + 1).collect();
                source.write(0, &pattern).expect("inside");
                let target = LocalMemory::new(1 << 16);
                let part = Rectangle {
                    x,
                    y,
                    width,
                    height,
                };
                let mut buffer = Vec::new();
                let count = copy_part(&source, &from, &target, &to, &part, &mut buffer);
                assert_eq!(count, Ok(part.area() * 4));
                let mut copied = vec![0; 1 << 16];
                target.read(0, &mut copied).expect("inside");
                let mut expected = vec![0_u8; 1 << 16];
                for row in y..y + height {
                    for byte in x * 4..(x + width) * 4 {
                        let at = |place: &Place| {
                            let offset = u64::from(row * place.stride + byte);
                            usize::try_from(place.offset + offset).expect("small")
                        };
                        expected[at(&to)] = pattern[at(&from)];
                    }
                }
                assert!(copied == expected, "{part:?} {from:?} {to:?}");
            }
        }
    }
}
