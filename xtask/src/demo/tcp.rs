//! TCP into the demo's guest: what shared memory stands beside.
//!
//! The guest calls the host, since a VM's user network lets nothing in by itself, and answers: each message of 64 bytes
//! comes back, and then everything that is sent is taken and counted. Both ends are this file. Refuses a guest that does
//! not call, or stops answering, after a stated time.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Bytes of a message whose latency is measured; `vmshm bench` sends as many.
const MESSAGE: usize = 64;
/// The first byte of the message after which bytes are only counted.
const COUNT_FROM_HERE: u8 = 1;
/// Bytes written or read at once when the rate is measured.
const CHUNK: usize = 64 << 10;
/// How long the latency is measured, and how long the rate.
const MEASURED_FOR: Duration = Duration::from_millis(1500);
/// Messages that are not counted: TCP starts slowly.
const WARM_UP: usize = 20;
/// The guest has its own work to finish before it calls.
const CALLS_WITHIN: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};
/// An end that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What TCP did.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Half of the median round trip, in seconds.
    pub one_way: f64,
    /// Bytes per second from the host to the guest.
    pub rate: f64,
}

/// Where the host waits for the guest's call.
pub struct Host(TcpListener);

impl Host {
    /// Listens on a free port of this host's loopback.
    pub fn listen() -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen for the guest")?;
        Ok(Self(listener))
    }

    /// What the guest has to call.
    pub fn address_in_guest(&self) -> Result<String> {
        // A VM's user network, of slirp as of QEMU, shows the host's loopback under this address.
        Ok(format!("10.0.2.2:{}", self.0.local_addr()?.port()))
    }

    /// Waits for the guest and measures.
    pub fn measure(&self) -> Result<Measured> {
        let mut waiting = [PollFd::new(&self.0, PollFlags::IN)];
        if poll(&mut waiting, Some(&CALLS_WITHIN))? == 0 {
            bail!(
                "the guest did not call by TCP within {} s",
                CALLS_WITHIN.tv_sec
            );
        }
        let (mut stream, _) = self.0.accept()?;
        prepare(&stream)?;
        let one_way = latency(&mut stream).context("TCP into the guest")?;
        let rate = rate(&mut stream).context("TCP into the guest")?;
        Ok(Measured { one_way, rate })
    }
}

fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(())
}

/// Half of the median time that a message takes to the guest and back.
fn latency(stream: &mut TcpStream) -> Result<f64> {
    let (message, mut answer) = ([0; MESSAGE], [0; MESSAGE]);
    let mut both_ways = Vec::new();
    let start = Instant::now();
    while start.elapsed() < MEASURED_FOR || both_ways.len() <= WARM_UP {
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        both_ways.push(sent.elapsed().as_secs_f64());
    }
    let mut counted = both_ways.split_off(WARM_UP);
    counted.sort_by(f64::total_cmp);
    let median = counted
        .get(counted.len() / 2)
        .context("nothing was measured")?;
    Ok(median / 2.0)
}

/// Bytes per second until the guest has taken and counted all.
fn rate(stream: &mut TcpStream) -> Result<f64> {
    let mut message = [0; MESSAGE];
    message[0] = COUNT_FROM_HERE;
    stream.write_all(&message)?;
    let chunk = vec![0; CHUNK];
    let start = Instant::now();
    let mut sent = 0_u64;
    while start.elapsed() < MEASURED_FOR {
        stream.write_all(&chunk)?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut counted = [0; 8];
    stream.read_exact(&mut counted)?;
    let seconds = start.elapsed().as_secs_f64();
    let counted = u64::from_le_bytes(counted);
    ensure!(
        counted == sent,
        "the guest counted {counted} of {sent} bytes"
    );
    Ok(sent as f64 / seconds)
}

/// The guest's end: calls `address` and answers until the host has said everything.
pub fn answer(address: &str) -> Result<()> {
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("cannot call {address}"))?;
    prepare(&stream)?;
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        if message[0] == COUNT_FROM_HERE {
            break;
        }
        stream.write_all(&message)?;
    }
    let mut chunk = vec![0; CHUNK];
    let mut counted = 0_u64;
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            length => counted += length as u64,
        }
    }
    Ok(stream.write_all(&counted.to_le_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree_on_what_was_sent() {
        let host = Host::listen().expect("a port");
        let port = host.0.local_addr().expect("an address").port();
        let guest = std::thread::spawn(move || answer(&format!("127.0.0.1:{port}")));
        let measured = host.measure().expect("measured");
        guest.join().expect("no panic").expect("answered");
        assert!(
            measured.one_way > 0.0 && measured.rate > 0.0,
            "{measured:?}"
        );
    }
}
