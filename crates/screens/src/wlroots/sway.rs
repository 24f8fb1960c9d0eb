//! Sway's IPC: commands and their answers over a Unix stream socket, as in i3.
//!
//! A message is `i3-ipc`, its payload's length and its type (32 bits each, in the machine's byte
//! order), and the payload. Nothing here blocks: [`Ipc::answer`] gives an answer once it is whole.
//! Refuses answers that are longer than [`LIMIT`].

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use serde_json::Value;

use super::line::{LineError, connect};

const MAGIC: &[u8; 6] = b"i3-ipc";
const HEADER: usize = 14;
/// The longest answer in bytes.
const LIMIT: usize = 4 << 20;

/// Runs commands; the answer is an array with a result for each.
pub const RUN_COMMAND: u32 = 0;
/// Lists outputs.
pub const GET_OUTPUTS: u32 = 3;

/// Why sway did not do something.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] LineError),
    /// The connection broke.
    #[error("sway has closed its IPC connection ({0})")]
    Broken(String),
    /// No sense in the answer.
    #[error("sway's IPC answers nonsense: {0}")]
    Malformed(String),
    /// Sway says no.
    #[error("sway refuses: {0}")]
    Refused(String),
    /// Sway does not answer.
    #[error("sway does not answer")]
    Silent,
}

/// A connection.
#[derive(Debug)]
pub struct Ipc {
    socket: UnixStream,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

/// A message's bytes.
fn frame(kind: u32, payload: &str) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload.as_bytes());
    bytes
}

/// Takes a whole message off the front: its type and payload.
fn unframe(bytes: &mut Vec<u8>) -> Result<Option<(u32, Vec<u8>)>, IpcError> {
    let malformed = |what: &str| Err(IpcError::Malformed(what.to_owned()));
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [m0, m1, m2, m3, m4, m5, l0, l1, l2, l3, t0, t1, t2, t3] = *head;
    if &[m0, m1, m2, m3, m4, m5] != MAGIC {
        return malformed("a message that does not begin as one");
    }
    let length = u32::from_ne_bytes([l0, l1, l2, l3]);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LIMIT {
        return malformed("a message that is too long");
    }
    let Some(payload) = rest.get(..length) else {
        return Ok(None);
    };
    let message = (u32::from_ne_bytes([t0, t1, t2, t3]), payload.to_vec());
    bytes.drain(..HEADER + length);
    Ok(Some(message))
}

/// Whether all commands of one request were done; the first complaint if not.
pub fn done(answer: &Value) -> Result<(), IpcError> {
    let results = answer
        .as_array()
        .ok_or_else(|| IpcError::Malformed("an answer to a command that is no list".to_owned()))?;
    for result in results {
        if result.get("success").and_then(Value::as_bool) != Some(true) {
            let said = result.get("error").and_then(Value::as_str);
            return Err(IpcError::Refused(said.unwrap_or("no reason").to_owned()));
        }
    }
    Ok(())
}

/// Whether a name can stand in a command as it is.
pub fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty()
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain)
}

impl Ipc {
    /// Connects to `$SWAYSOCK`.
    pub fn connect(path: &str) -> Result<Self, IpcError> {
        let socket = connect(path)?;
        Ok(Self::new(socket))
    }

    fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            outgoing: Vec::new(),
            incoming: Vec::new(),
        }
    }

    /// Sends a message, as far as the socket takes it now.
    pub fn send(&mut self, kind: u32, payload: &str) -> Result<(), IpcError> {
        self.outgoing.extend(frame(kind, payload));
        self.flush()
    }

    fn flush(&mut self) -> Result<(), IpcError> {
        while !self.outgoing.is_empty() {
            match self.socket.write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(IpcError::Broken(error.to_string())),
            }
        }
        Ok(())
    }

    /// What to poll for.
    pub fn interest(&self) -> PollFlags {
        if self.outgoing.is_empty() {
            PollFlags::IN
        } else {
            PollFlags::IN | PollFlags::OUT
        }
    }

    /// The answer to the oldest message that has none yet, once it is there.
    pub fn answer(&mut self) -> Result<Option<Value>, IpcError> {
        self.flush()?;
        loop {
            if let Some((_, payload)) = unframe(&mut self.incoming)? {
                let value = serde_json::from_slice(&payload);
                return value
                    .map(Some)
                    .map_err(|error| IpcError::Malformed(error.to_string()));
            }
            let mut bytes = [0; 16384];
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err(IpcError::Broken("end of file".to_owned())),
                Ok(count) => self.incoming.extend(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(IpcError::Broken(error.to_string())),
            }
        }
    }

    /// Sends a message and waits for its answer until `deadline`: for the end, when there is
    /// nothing else to do.
    pub fn ask(&mut self, kind: u32, payload: &str, deadline: Instant) -> Result<Value, IpcError> {
        self.send(kind, payload)?;
        loop {
            if let Some(answer) = self.answer()? {
                return Ok(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(IpcError::Silent);
            }
            let left = vmshm_channel::timespec(left.min(Duration::from_millis(200)));
            let _ = rustix::event::poll(&mut [PollFd::new(self, self.interest())], Some(&left));
        }
    }
}

impl AsFd for Ipc {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, Ipc) {
        let (sway, own) = UnixStream::pair().expect("succeeds");
        own.set_nonblocking(true).expect("succeeds");
        (sway, Ipc::new(own))
    }

    #[test]
    fn a_message_is_as_swaymsg_sends_it() {
        let bytes = frame(RUN_COMMAND, "create_output");
        assert_eq!(&bytes[..6], b"i3-ipc");
        assert_eq!(bytes[6..10], 13_u32.to_ne_bytes());
        assert_eq!(bytes[10..14], 0_u32.to_ne_bytes());
        assert_eq!(&bytes[14..], b"create_output");
    }

    #[test]
    fn answers_are_whole_and_in_order_however_they_arrive() {
        let (mut sway, mut ipc) = pair();
        ipc.send(RUN_COMMAND, "create_output").expect("succeeds");
        let mut asked = [0; 27];
        sway.read_exact(&mut asked).expect("succeeds");
        let mut bytes = frame(0, r#"[{"success":true}]"#);
        bytes.extend(frame(0, r#"[{"success":false,"error":"Unknown"}]"#));
        for byte in &bytes[..bytes.len() - 1] {
            sway.write_all(&[*byte]).expect("succeeds");
        }
        let first = ipc.answer().expect("succeeds").expect("is there");
        done(&first).expect("succeeds");
        assert_eq!(ipc.answer().expect("succeeds"), None);
        sway.write_all(&bytes[bytes.len() - 1..]).expect("succeeds");
        let second = ipc.answer().expect("succeeds").expect("is there");
        assert_eq!(
            done(&second).expect_err("is refused").to_string(),
            "sway refuses: Unknown"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let mut long = MAGIC.to_vec();
        long.extend(u32::MAX.to_ne_bytes());
        long.extend([0; 4]);
        for bytes in [b"i3-ipd00000000".to_vec(), long, frame(0, "{{")] {
            let (mut sway, mut ipc) = pair();
            sway.write_all(&bytes).expect("succeeds");
            assert!(matches!(ipc.answer(), Err(IpcError::Malformed(_))));
        }
        assert!(done(&Value::Null).is_err());
        assert!(done(&serde_json::json!([{}])).is_err());
    }

    #[test]
    fn an_end_and_a_silence_are_told_apart() {
        let (sway, mut ipc) = pair();
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(matches!(
            ipc.ask(GET_OUTPUTS, "", soon),
            Err(IpcError::Silent)
        ));
        drop(sway);
        assert!(matches!(ipc.answer(), Err(IpcError::Broken(_))));
    }

    #[test]
    fn only_plain_names_stand_in_commands() {
        for plain in ["HEADLESS-2", "DP-1", "WL-1", "eDP-1", "HDMI-A-1"] {
            assert!(is_plain(plain), "{plain}");
        }
        for odd in ["", "a b", "x;exit", "*", "-", "\"", "a,b", "é"] {
            assert!(!is_plain(odd), "{odd}");
        }
    }
}
