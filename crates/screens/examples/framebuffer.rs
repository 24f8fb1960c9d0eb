//! Plays the agent and a host for a framebuffer device of this very system: sets a mode,
//! draws or pans, takes frames in, and says what was seen and what it cost.
//!
//! `framebuffer /dev/fb0 idle|draw|flip SECONDS [copied] [WIDTHxHEIGHT]`, as root. `copied`:
//! as if the device's pages could not be shared. It refuses what is no framebuffer; it changes
//! the mode.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::time::{ClockId, clock_gettime};
use vmshm_channel::source::{FromSource, Kind, PixelMemory, ToSource};
use vmshm_channel::{Channel, Size};
use vmshm_link::frames::{FRAMES_SIZE, Frame, FrameReader, FrameWriter, Rectangle, Wants};
use vmshm_screens::framebuffer::device::{ACTIVATE_NOW, Device, Driver};
use vmshm_shm::{Mapping, Protection, SharedMemory};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    frames: u64,
    live: u64,
    retaken: u64,
    torn: u64,
    damage_bytes: u64,
    touched: u64,
    capture_nanos: Vec<u64>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, device, what, seconds, rest @ ..] = arguments.as_slice() else {
        return Err("framebuffer DEVICE idle|draw|flip SECONDS [copied] [WIDTHxHEIGHT]".into());
    };
    let copied = rest.iter().any(|one| one == "copied");
    let size = rest.iter().find_map(|one| {
        let (width, height) = one.split_once('x')?;
        Some((width.parse().ok()?, height.parse().ok()?))
    });
    let (width, height) = size.unwrap_or((1920, 1080));
    let time = Duration::from_secs(seconds.parse()?);
    println!("found: {:?}", vmshm_screens::framebuffer::find());
    let (ours, theirs) = UnixStream::pair()?;
    std::thread::scope(|scope| {
        let service = scope.spawn(move || {
            let served = vmshm_screens::serve(Channel::new(theirs)?);
            let cpu = clock_gettime(ClockId::ThreadCPUTime);
            served?;
            Ok::<f64, Failure>(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9)
        });
        let played = play(
            Channel::new(ours)?,
            device,
            what,
            time,
            copied,
            (width, height),
        );
        let cpu = service.join().map_err(|_| "the source panicked")??;
        println!(
            "source: {cpu:.3} s of processor time, {:.2} % of one",
            100.0 * cpu / time.as_secs_f64()
        );
        played
    })
}

/// The agent's and the host's part; the channel closes at its end.
fn play(
    mut channel: Channel,
    device: &str,
    what: &str,
    time: Duration,
    copied: bool,
    (width, height): (u32, u32),
) -> Result<(), Failure> {
    let start = ToSource::Start {
        kind: Kind::Framebuffer {
            device: device.to_owned(),
        },
        input: true,
    };
    channel.send(&start, None)?;
    println!("{:?}", hear(&mut channel)?);
    let mode = Size {
        width,
        height,
        refresh_millihertz: 0,
    };
    channel.send(
        &ToSource::SetMode {
            request: 1,
            screen: 0,
            mode,
        },
        None,
    )?;
    loop {
        match hear(&mut channel)? {
            FromSource::ModeSet { .. } => break,
            FromSource::Refused { message, .. } => return Err(message.into()),
            other => println!("{other:?}"),
        }
    }
    let frames = memfd_create("frames", MemfdFlags::CLOEXEC)?;
    ftruncate(&frames, FRAMES_SIZE)?;
    let map = || Mapping::whole(&frames, FRAMES_SIZE, Protection::ReadWrite);
    FrameWriter::resume(map()?)?;
    let watch = ToSource::Watch {
        screen: 0,
        size: FRAMES_SIZE,
    };
    channel.send(&watch, Some(frames.as_fd()))?;
    let pixels = loop {
        match hear(&mut channel)? {
            FromSource::NeedPixels {
                request, memory, ..
            } => {
                if let Some(pixels) = give(&mut channel, request, &memory, copied)? {
                    break pixels;
                }
            }
            FromSource::Failed { message, .. } => return Err(message.into()),
            other => println!("{other:?}"),
        }
    };
    channel.send(
        &ToSource::Readers {
            screen: 0,
            readers: vec![0],
        },
        None,
    )?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let drawer = scope.spawn(|| match what {
            "draw" => draw(device, &stop),
            "flip" => flip(device, &stop),
            _ => Ok(0),
        });
        let mut reader = FrameReader::new(map()?, 0, Wants::default())?;
        let seen = look(&mut reader, &pixels, time, what == "flip", (width, height));
        stop.store(true, Ordering::Relaxed);
        let drawn = drawer.join().map_err(|_| "the drawer panicked")??;
        let (mut seen, shown) = seen?;
        seen.capture_nanos.sort_unstable();
        let median = seen.capture_nanos.get(seen.capture_nanos.len() / 2);
        println!("drawn: {drawn} pictures in {} s", time.as_secs());
        println!(
            "frames: {} ({} of live scanout), {} copies taken again, {} torn ones not noticed",
            seen.frames, seen.live, seen.retaken, seen.torn
        );
        println!(
            "damage: {} bytes; touched by the source: {} bytes; capture p50 {} us",
            seen.damage_bytes,
            seen.touched,
            median.unwrap_or(&0) / 1000
        );
        settle(&mut reader, &pixels, device, shown)
    })?;
    while let Some((message, _)) = channel.receive::<FromSource>()? {
        println!("{message:?}");
    }
    Ok(())
}

fn hear(channel: &mut Channel) -> Result<FromSource, Failure> {
    let (message, descriptor) = channel.next(PATIENCE)?;
    assert!(descriptor.is_none(), "a source sends no descriptors");
    Ok(message)
}

/// Answers a request for memory as the agent does; the host's mapping of it.
fn give(
    channel: &mut Channel,
    request: u64,
    memory: &PixelMemory,
    copied: bool,
) -> Result<Option<Mapping>, Failure> {
    println!("{memory:?} is wanted");
    let (screen, region) = (0, 17);
    match memory {
        PixelMemory::Device { .. } if copied => {
            let message = "this is what was asked for".to_owned();
            let none = ToSource::NoPixels {
                screen,
                request,
                message,
            };
            channel.send(&none, None)?;
            Ok(None)
        }
        PixelMemory::Device { device, size } => {
            let pixels = Device::open(Path::new(device))?.map(*size)?;
            let given = ToSource::Pixels {
                screen,
                request,
                region,
                size: *size,
            };
            channel.send(&given, None)?;
            Ok(Some(pixels))
        }
        PixelMemory::Pinned { size } => {
            let file = memfd_create("pixels", MemfdFlags::CLOEXEC)?;
            ftruncate(&file, *size)?;
            let given = ToSource::Pixels {
                screen,
                request,
                region,
                size: *size,
            };
            channel.send(&given, Some(file.as_fd()))?;
            Ok(Some(Mapping::whole(&file, *size, Protection::Read)?))
        }
    }
}

/// The host's part: takes frames in for so long.
fn look(
    reader: &mut FrameReader<Mapping>,
    pixels: &Mapping,
    time: Duration,
    uniform: bool,
    (width, height): (u32, u32),
) -> Result<(Seen, Vec<u8>), Failure> {
    let mut seen = Seen::default();
    let mut shown = vec![0; width as usize * height as usize * 4];
    let end = Instant::now() + time;
    while Instant::now() < end {
        reader.beat()?;
        let Some(look) = reader.look()? else {
            std::thread::sleep(Duration::from_micros(500));
            continue;
        };
        let frame = look.frame;
        if (frame.place.width, frame.place.height) != (width, height) {
            reader.acknowledge(&frame)?;
            continue;
        }
        let whole = [Rectangle::whole(width, height)];
        let damage = look.damage.as_ref();
        let rectangles = damage.map_or(&whole[..], |damage| damage.rectangles());
        copy(pixels, &frame, rectangles, &mut shown)?;
        if !reader.is_whole(&frame)? {
            seen.retaken += 1;
            reader.forget();
            reader.let_go()?;
            continue;
        }
        reader.acknowledge(&frame)?;
        if uniform && !frame.is_live_scanout {
            let first = shown.first_chunk::<4>().copied().unwrap_or_default();
            let torn = shown.chunks_exact(4).any(|pixel| pixel != first);
            seen.torn += u64::from(torn);
        }
        seen.frames += 1;
        seen.live += u64::from(frame.is_live_scanout);
        seen.damage_bytes += rectangles.iter().map(|one| one.area() * 4).sum::<u64>();
        seen.touched += frame.bytes_touched;
        seen.capture_nanos.push(frame.capture_nanos);
    }
    Ok((seen, shown))
}

fn copy(
    pixels: &Mapping,
    frame: &Frame,
    rectangles: &[Rectangle],
    shown: &mut [u8],
) -> Result<(), Failure> {
    let place = &frame.place;
    place.check(pixels.size())?;
    for one in rectangles {
        for y in one.y..one.y + one.height {
            let from = place.offset + u64::from(y) * u64::from(place.stride);
            let to = (y as usize * place.width as usize + one.x as usize) * 4;
            let row = &mut shown[to..to + one.width as usize * 4];
            pixels.read(from + u64::from(one.x) * 4, row)?;
        }
    }
    Ok(())
}

/// Nobody draws any more: after a while the host shows just what the device does.
fn settle(
    reader: &mut FrameReader<Mapping>,
    pixels: &Mapping,
    device: &str,
    mut shown: Vec<u8>,
) -> Result<(), Failure> {
    let device = Device::open(Path::new(device))?;
    let (variable, fixed) = (device.variable()?, device.fixed()?);
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        reader.beat()?;
        if let Some(look) = reader.look()? {
            let place = look.frame.place;
            let whole = [Rectangle::whole(place.width, place.height)];
            let damage = look.damage.as_ref();
            let rectangles = damage.map_or(&whole[..], |damage| damage.rectangles());
            copy(pixels, &look.frame, rectangles, &mut shown)?;
            reader.acknowledge(&look.frame)?;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let memory = device.map(u64::from(fixed.smem_len).next_multiple_of(4096))?;
    let mut row = vec![0; variable.xres as usize * 4];
    let mut wrong = 0;
    for y in 0..variable.yres {
        let at = u64::from(variable.yoffset + y) * u64::from(fixed.line_length);
        memory.read(at, &mut row)?;
        let start = y as usize * row.len();
        wrong += usize::from(shown[start..start + row.len()] != row[..]);
    }
    println!("rows that differ from the device in the end: {wrong}");
    Ok(())
}

/// Draws squares here and there, 60 times a second, straight into what is shown.
fn draw(device: &str, stop: &AtomicBool) -> Result<u64, Failure> {
    let mut file = OpenOptions::new().write(true).open(device)?;
    let (variable, fixed) = {
        let device = Device::open(Path::new(device))?;
        (device.variable()?, device.fixed()?)
    };
    let mut count = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let x = count * 37 % variable.xres.saturating_sub(50).max(1);
        let y = count * 23 % variable.yres.saturating_sub(50).max(1);
        let row = count.to_le_bytes().repeat(50);
        for line in y..y + 50 {
            let at = line * fixed.line_length + x * 4;
            file.seek(SeekFrom::Start(at.into()))?;
            file.write_all(&row)?;
        }
        count += 1;
        std::thread::sleep(Duration::from_micros(16_000));
    }
    Ok(count.into())
}

/// Fills the picture that is not shown with one colour, shows it by panning, and so on.
fn flip(device: &str, stop: &AtomicBool) -> Result<u64, Failure> {
    let mut file = OpenOptions::new().write(true).open(device)?;
    let device = Device::open(Path::new(device))?;
    let mut variable = device.variable()?;
    variable.yres_virtual = variable.yres * 2;
    variable.activate = ACTIVATE_NOW;
    variable = device.put(variable)?;
    let fixed = device.fixed()?;
    let bytes = fixed.line_length as usize * variable.yres as usize;
    let mut count = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let row = variable.yres * (count % 2);
        let picture = count.wrapping_mul(0x9e37_79b9).to_le_bytes();
        let picture = picture.repeat(bytes / 4);
        let at = u64::from(row) * u64::from(fixed.line_length);
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&picture)?;
        variable.yoffset = row;
        device.pan(variable)?;
        std::thread::sleep(Duration::from_micros(16_000));
    }
    Ok(count.into())
}
