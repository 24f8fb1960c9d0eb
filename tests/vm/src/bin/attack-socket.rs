//! Does to the agent's socket what no good client does: `garbage`, `connections` (opens 10 000, and with `hold` keeps
//! what it was given until it is killed), `unread` (asks on and on without reading an answer), `wishes` (asks for
//! thousands of regions at once), `punch NAME` (takes a raw region, tries to resize its file, and takes a page out of
//! it). It says how often it was let in and thrown out; what that means is the test's affair.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests says by panicking that it cannot go on"
)]

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, recvmsg, send, socket_with,
};
use vmshm_link::control::{Reply, Request, Role};
use vmshm_link::directory::RegionKind;
use vmshm_link::fields::Text;
use vmshm_link::local::{Datagram, MAX_DATAGRAM, SOCKET, parse};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    match arguments.first().map(String::as_str) {
        Some("garbage") => garbage(),
        Some("connections") => connections(has("hold")),
        Some("unread") => unread(),
        Some("wishes") => wishes(),
        Some("punch") => punch(arguments.get(1).expect("a region's name")),
        other => panic!("no such attack: {other:?}"),
    }
}

fn open() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    Ok(socket)
}

/// A connection that has said hello; the agent may be busy throwing others out.
fn greeted() -> OwnedFd {
    loop {
        if let Ok(socket) = open()
            && send(
                &socket,
                Datagram::hello(vmshm_link::VERSION).bytes(),
                NOSIGNAL,
            )
            .is_ok()
        {
            return socket;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

const NOSIGNAL: SendFlags = SendFlags::NOSIGNAL;

/// Whether the other end has closed.
fn is_thrown_out(socket: &OwnedFd) -> bool {
    let mut bytes = [0; MAX_DATAGRAM];
    loop {
        match recv(socket, &mut bytes, RecvFlags::empty()) {
            Ok((_, 0)) => return true,
            Ok(_) => {}
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
}

fn garbage() {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = 0;
    for round in 0..400_usize {
        let socket = if round % 2 == 0 {
            greeted()
        } else {
            let Ok(socket) = open() else { continue };
            socket
        };
        let mut bytes = vec![0; round * 7 % 900];
        for byte in &mut bytes {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (word >> 56) as u8;
        }
        if round % 3 == 0 && bytes.len() > 8 {
            // A message that exists, with a payload that makes no sense.
            bytes[..8].copy_from_slice(&(round as u64 % 12).to_le_bytes());
        }
        let _ = send(&socket, &bytes, NOSIGNAL);
        std::thread::sleep(std::time::Duration::from_millis(1));
        out += usize::from(is_thrown_out(&socket));
    }
    println!("thrown out {out} of 400 times");
}

fn connections(hold: bool) {
    let mut open_now = Vec::new();
    let (mut refused, mut total) = (0, 0);
    while total < 10_000 {
        total += 1;
        match open() {
            Ok(socket) => open_now.push(socket),
            Err(_) => refused += 1,
        }
        if open_now.len() >= 512 && !hold {
            open_now.clear();
        }
        if open_now.len() >= 900 {
            break;
        }
    }
    println!("{total} connections, {refused} refused at once");
    if hold {
        loop {
            std::thread::park();
        }
    }
}

fn unread() {
    let socket = greeted();
    let remove = Request::Remove {
        name: Text::new("there-is-none"),
    };
    let mut sent = 0_u64;
    for tag in 0..200_000 {
        match send(
            &socket,
            Datagram::new(&remove.to_message(tag)).bytes(),
            NOSIGNAL,
        ) {
            Ok(_) => sent += 1,
            Err(Errno::AGAIN) => std::thread::sleep(std::time::Duration::from_millis(1)),
            Err(_) => break,
        }
    }
    println!("sent {sent} questions without reading an answer");
}

fn wishes() {
    let socket = greeted();
    let mut sent = 0_u64;
    for tag in 0..5000_u64 {
        let wish = Request::Link {
            kind: RegionKind::Raw,
            size: 1 << 20,
            name: Text::new(&format!("wish-{tag}")),
            record: 0,
            role: Role::End,
        };
        match send(
            &socket,
            Datagram::new(&wish.to_message(tag)).bytes(),
            NOSIGNAL,
        ) {
            Ok(_) => sent += 1,
            Err(Errno::AGAIN) => std::thread::sleep(std::time::Duration::from_millis(1)),
            Err(_) => break,
        }
    }
    println!("sent {sent} wishes");
}

/// Takes a region's file and does to it what the seals must prevent, and what they cannot.
fn punch(name: &str) {
    let socket = greeted();
    let wish = Request::Link {
        kind: RegionKind::Raw,
        size: 0,
        name: Text::new(name),
        record: 0,
        role: Role::End,
    };
    send(
        &socket,
        Datagram::new(&wish.to_message(1)).bytes(),
        NOSIGNAL,
    )
    .expect("it takes a wish");
    let file = loop {
        if let Some(file) = receive_file(&socket) {
            break file;
        }
    };
    for size in [0, 1 << 30] {
        let resized = rustix::fs::ftruncate(&file, size);
        assert_eq!(resized, Err(Errno::PERM), "the file is sealed");
    }
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, hole, 4096, 4096).expect("no seal prevents this");
    println!("punched");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while std::time::Instant::now() < deadline {
        let mut bytes = [0; MAX_DATAGRAM];
        if let Ok((length, _)) = recv(&socket, &mut bytes, RecvFlags::empty()) {
            let (kind, payload) = parse(&bytes[..length]).expect("well formed, or the end");
            if let Ok((_, Reply::Ended { explanation, .. })) = Reply::from_payload(kind, payload) {
                println!("ended: {}", explanation.as_str());
                return;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("nobody says that the region is damaged");
}

/// The file that came with an answer, if one came.
fn receive_file(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; MAX_DATAGRAM];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    match recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
        Ok(received) => assert_ne!(received.bytes, 0, "thrown out"),
        Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
    }
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    })
}
