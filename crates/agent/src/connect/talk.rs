//! The agent's side of the rendezvous, on a connection that is there: see
//! `vmshm_link::rendezvous` for what is said.

use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;

use vmshm_link::rendezvous::message::{Announce, Inbox, Incoming, Message, MessageError, greeting};
use vmshm_link::rendezvous::{self, Secret};
use vmshm_link::{LinkError, Version};
use vmshm_shm::SharedMemory;

use super::resolve::ResolveError;
use crate::facts::{self, FactsError};

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TalkError {
    /// Its address is not known.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Nobody answers there.
    #[error("{0}")]
    Connect(io::Error),
    /// The kernel has no vsock, or no way out by it.
    #[error("this guest has no vsock (a vhost-vsock device, and the module vsock)")]
    NoVsock,
    /// The serial line cannot be had.
    #[error("cannot use {}: {error}", .path.display())]
    Line {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Somebody else listens there.
    #[error("who listens there is no `vmshm listen`")]
    Foreign,
    /// It speaks another protocol.
    #[error("who listens there cannot be understood: {0}")]
    Message(MessageError),
    /// It took too long.
    #[error("who listens there does not answer")]
    Silent,
    /// It hung up.
    #[error("the connection was closed (`vmshm listen` on the host says why)")]
    Closed,
    /// It could not show that it reads this guest's memory.
    #[error("who listens there does not read this guest's memory: it is not this guest's host")]
    Impostor,
    /// It said what makes no sense now.
    #[error("who listens there broke the protocol")]
    Disorder,
    /// The memory failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A random number could not be had.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    System(io::Error),
}

impl From<io::Error> for TalkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Silent,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::System(error),
        }
    }
}

impl From<MessageError> for TalkError {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::NoGreeting => Self::Foreign,
            other => Self::Message(other),
        }
    }
}

/// The words in memory, for as long as this value lives.
struct Shown<'a, M: SharedMemory>(&'a M);

impl<M: SharedMemory> Drop for Shown<'_, M> {
    fn drop(&mut self) {
        // Memory that cannot be reached shows nothing either.
        let _ = rendezvous::wipe(self.0);
    }
}

/// Ties the connection to this guest; gives what was read beyond that, and which version
/// the listener speaks.
pub(super) fn tie<M: SharedMemory>(
    mut socket: impl Read + Write,
    announce: &Announce,
    directory: &M,
) -> Result<(Inbox, Version), TalkError> {
    let mut inbox = Inbox::default();
    let Incoming::Greeting(version) = next(&mut socket, &mut inbox)? else {
        return Err(TalkError::Disorder);
    };
    let mut hello = greeting().to_vec();
    hello.extend(Message::Announce(*announce).encode().as_bytes());
    socket.write_all(&hello)?;
    let Incoming::Message(Message::Challenge(nonce)) = next(&mut socket, &mut inbox)? else {
        return Err(TalkError::Disorder);
    };
    let secret = secret()?;
    let shown = Shown(directory);
    rendezvous::show(directory, nonce, announce.epoch, secret)?;
    socket.write_all(Message::Shown.encode().as_bytes())?;
    let Incoming::Message(Message::Tied(countersign)) = next(&mut socket, &mut inbox)? else {
        return Err(TalkError::Disorder);
    };
    drop(shown);
    if countersign == rendezvous::countersign(nonce, secret) {
        Ok((inbox, version))
    } else {
        Err(TalkError::Impostor)
    }
}

fn secret() -> Result<Secret, FactsError> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&facts::random_word()?.to_le_bytes());
    bytes[8..].copy_from_slice(&facts::random_word()?.to_le_bytes());
    Ok(Secret(bytes))
}

/// The next message, however long it takes; the socket has a limit of its own.
fn next(socket: &mut impl Read, inbox: &mut Inbox) -> Result<Incoming, TalkError> {
    loop {
        if let Some(incoming) = inbox.take()? {
            return Ok(incoming);
        }
        match socket.read(inbox.space()) {
            Ok(0) => return Err(TalkError::Closed),
            Ok(count) => inbox.filled(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use vmshm_link::directory::DIRECTORY_SIZE;
    use vmshm_link::fields::Text;
    use vmshm_link::rendezvous::{Countersign, Nonce, countersign};
    use vmshm_link::{GuestPhysical, VERSION};
    use vmshm_shm::LocalMemory;

    use super::*;

    const EPOCH: u64 = 77;
    const NONCE: Nonce = Nonce([3; 16]);

    fn announce() -> Announce {
        Announce {
            beacon: GuestPhysical(0x20_0000),
            epoch: EPOCH,
            boot_id: [1; 16],
            version: Text::new("0.1.0"),
            name: Text::new("guest"),
        }
    }

    /// Runs the agent's side against `host`, which gets the other end and the guest's
    /// memory.
    fn against(
        host: impl FnOnce(UnixStream, Arc<LocalMemory>) + Send + 'static,
    ) -> (Result<(), TalkError>, Arc<LocalMemory>) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        for socket in [&ours, &theirs] {
            socket
                .set_read_timeout(Some(Duration::from_secs(20)))
                .expect("a timeout");
        }
        let size = usize::try_from(DIRECTORY_SIZE).expect("small");
        let memory = Arc::new(LocalMemory::new(size));
        let theirs_memory = Arc::clone(&memory);
        let host = thread::spawn(move || host(theirs, theirs_memory));
        let result = tie(&ours, &announce(), &*memory).map(drop);
        drop(ours);
        host.join().expect("the host does not panic");
        (result, memory)
    }

    fn expect(socket: &mut UnixStream, inbox: &mut Inbox) -> Incoming {
        next(socket, inbox).expect("a message")
    }

    #[test]
    fn a_host_that_reads_the_memory_is_tied_and_the_words_are_wiped() {
        let (result, memory) = against(|mut socket, memory| {
            let mut inbox = Inbox::default();
            socket.write_all(&greeting()).expect("sent");
            assert_eq!(expect(&mut socket, &mut inbox), Incoming::Greeting(VERSION));
            let announced = expect(&mut socket, &mut inbox);
            assert_eq!(announced, Incoming::Message(Message::Announce(announce())));
            let challenge = Message::Challenge(NONCE).encode();
            socket.write_all(challenge.as_bytes()).expect("sent");
            let shown = expect(&mut socket, &mut inbox);
            assert_eq!(shown, Incoming::Message(Message::Shown));
            let secret = rendezvous::look(&*memory, NONCE, EPOCH)
                .expect("read")
                .expect("it stands there");
            let tied = Message::Tied(countersign(NONCE, secret)).encode();
            socket.write_all(tied.as_bytes()).expect("sent");
        });
        result.expect("tied");
        assert_eq!(rendezvous::look(&*memory, NONCE, EPOCH), Ok(None));
    }

    #[test]
    fn a_host_that_does_not_read_the_memory_is_an_impostor() {
        let (result, memory) = against(|mut socket, _| {
            let said = [
                greeting().as_slice(),
                Message::Challenge(NONCE).encode().as_bytes(),
                Message::Tied(Countersign([0; 16])).encode().as_bytes(),
            ]
            .concat();
            socket.write_all(&said).expect("sent");
            let _ = io::copy(&mut socket, &mut io::sink());
        });
        assert!(matches!(result, Err(TalkError::Impostor)), "{result:?}");
        assert_eq!(rendezvous::look(&*memory, NONCE, EPOCH), Ok(None));
    }

    #[test]
    fn nothing_is_said_to_whoever_does_not_greet_rightly() {
        let other = Version {
            major: VERSION.major + 1,
            minor: 4,
        };
        let mut other_major = greeting();
        other_major[8..].copy_from_slice(&other.to_word().to_le_bytes());
        for (said, words) in [
            (
                b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
                vec!["no `vmshm listen`".to_owned()],
            ),
            (
                other_major.to_vec(),
                vec![other.to_string(), VERSION.to_string()],
            ),
            (Vec::new(), vec!["closed".to_owned()]),
        ] {
            let (result, _) = against(move |mut socket, _| {
                socket.write_all(&said).expect("sent");
                socket.shutdown(std::net::Shutdown::Write).expect("shut");
                let mut heard = Vec::new();
                let _ = socket.read_to_end(&mut heard);
                assert!(heard.is_empty(), "the agent has said {heard:?}");
            });
            let text = result.expect_err("refused").to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
    }

    #[test]
    fn disorder_ends_the_connection_with_the_words_wiped() {
        let (result, memory) = against(|mut socket, _| {
            let said = [
                greeting().as_slice(),
                Message::Challenge(NONCE).encode().as_bytes(),
                Message::Challenge(NONCE).encode().as_bytes(),
            ]
            .concat();
            socket.write_all(&said).expect("sent");
            let _ = io::copy(&mut socket, &mut io::sink());
        });
        assert!(matches!(result, Err(TalkError::Disorder)), "{result:?}");
        assert_eq!(rendezvous::look(&*memory, NONCE, EPOCH), Ok(None));
    }
}
