//! A VNC client (RFC 6143) that shows nothing: it asks for changes, takes them as raw pixels into a picture of its own, and
//! counts. Raw pixels are the cheapest for a client on the same machine: a real one costs more.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Watches for so many seconds; how many updates came, and what they cost.
pub fn run(port: &str, seconds: &str) -> io::Result<Value> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let port: u16 = port.parse().map_err(|_| invalid("a port"))?;
    let seconds = seconds.parse().map_err(|_| invalid("seconds"))?;
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    server.set_nodelay(true)?;
    server.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (width, height) = greet(&mut server)?;
    let mut picture = vec![0_u8; usize::from(width) * usize::from(height) * 4];
    ask(&mut server, false, width, height)?;
    let mut updates = 0_u64;
    let mut bytes = 0_u64;
    let mut end = None;
    // The first update is the whole picture; counting begins behind it.
    while end.is_none_or(|end| Instant::now() < end) {
        bytes += update(&mut server, width, &mut picture)?;
        ask(&mut server, true, width, height)?;
        match end {
            None => {
                end = Some(Instant::now() + Duration::from_secs(seconds));
                bytes = 0;
            }
            Some(_) => updates += 1,
        }
    }
    Ok(json!({"frames": updates, "bytes": bytes}))
}

fn numbers<const N: usize>(server: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    server.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Version, no security, shared; the picture's size.
fn greet(server: &mut TcpStream) -> io::Result<(u16, u16)> {
    let _version: [u8; 12] = numbers(server)?;
    server.write_all(b"RFB 003.008\n")?;
    let [count] = numbers(server)?;
    let mut kinds = vec![0; usize::from(count)];
    server.read_exact(&mut kinds)?;
    if !kinds.contains(&1) {
        return Err(io::Error::other("the server wants a password"));
    }
    server.write_all(&[1])?;
    if numbers(server)? != [0_u8; 4] {
        return Err(io::Error::other("the server refuses"));
    }
    server.write_all(&[1])?;
    let size: [u8; 4] = numbers(server)?;
    let _format: [u8; 16] = numbers(server)?;
    let length = u32::from_be_bytes(numbers(server)?);
    io::copy(&mut server.take(length.into()), &mut io::sink())?;
    // 32 bits for a pixel, 24 of them colour, little-endian, true colour, blue first.
    server.write_all(&[0, 0, 0, 0])?;
    server.write_all(&[32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0])?;
    // Raw only.
    server.write_all(&[2, 0, 0, 1, 0, 0, 0, 0])?;
    Ok((
        u16::from_be_bytes([size[0], size[1]]),
        u16::from_be_bytes([size[2], size[3]]),
    ))
}

fn ask(server: &mut TcpStream, incremental: bool, width: u16, height: u16) -> io::Result<()> {
    let [w1, w0] = width.to_be_bytes();
    let [h1, h0] = height.to_be_bytes();
    server.write_all(&[3, u8::from(incremental), 0, 0, 0, 0, w1, w0, h1, h0])
}

/// Takes one update in; its bytes of pixels.
fn update(server: &mut TcpStream, width: u16, picture: &mut [u8]) -> io::Result<u64> {
    loop {
        match numbers(server)? {
            [0] => break,
            // A bell.
            [2] => {}
            // Somebody has copied a text.
            [3] => {
                let head: [u8; 7] = numbers(server)?;
                let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
                io::copy(&mut server.take(length.into()), &mut io::sink())?;
            }
            [other] => return Err(io::Error::other(format!("message {other}"))),
        }
    }
    let head: [u8; 3] = numbers(server)?;
    let mut bytes = 0;
    for _ in 0..u16::from_be_bytes([head[1], head[2]]) {
        let head: [u8; 12] = numbers(server)?;
        let number = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
        if head[8..] != [0; 4] {
            return Err(io::Error::other("pixels that are not raw"));
        }
        for row in 0..number(6) {
            let start = ((number(2) + row) * usize::from(width) + number(0)) * 4;
            let place = picture.get_mut(start..start + number(4) * 4);
            server.read_exact(place.ok_or_else(|| io::Error::other("pixels outside"))?)?;
            bytes += number(4) as u64 * 4;
        }
    }
    Ok(bytes)
}
