//! iceoryx2's publish-subscribe with its default quality of service: one topic each way, 64 bytes a sample.
//!
//! Each payload is written into a loaned sample and read out of the received one, as ours is. Its files lie in a
//! directory and under a prefix of their own, and are removed at the end, also after a process died.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{
    Config, FileName, LogLevel, Node, NodeBuilder, SemanticString, SignalHandlingMode, ipc,
    set_log_level,
};
use tempfile::TempDir;
use vmshm_link::bench::MESSAGE;

/// Where iceoryx2's shared memory appears.
const SHARED_MEMORY: &str = "/dev/shm";

type Payload = [u8; MESSAGE];

/// One end of both topics.
pub struct Topic {
    publisher: Publisher<ipc::Service, Payload, ()>,
    subscriber: Subscriber<ipc::Service, Payload, ()>,
    /// Lives as long as its ports.
    _node: Node<ipc::Service>,
}

impl Topic {
    /// Opens both topics: the first end sends by one, the other by the other.
    pub fn open(config: &Config, first: bool) -> Result<Self> {
        set_log_level(LogLevel::Error);
        let node = NodeBuilder::new()
            .config(config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()
            .map_err(|error| anyhow!("iceoryx2's node: {error:?}"))?;
        let (out, from) = if first {
            ("there", "back")
        } else {
            ("back", "there")
        };
        let service = |name: &str| {
            let name = name
                .try_into()
                .map_err(|error| anyhow!("iceoryx2's name: {error:?}"))?;
            node.service_builder(&name)
                .publish_subscribe::<Payload>()
                .open_or_create()
                .map_err(|error| anyhow!("iceoryx2's service: {error:?}"))
        };
        let publisher = service(out)?
            .publisher_builder()
            .create()
            .map_err(|error| anyhow!("iceoryx2's publisher: {error:?}"))?;
        let subscriber = service(from)?
            .subscriber_builder()
            .create()
            .map_err(|error| anyhow!("iceoryx2's subscriber: {error:?}"))?;
        Ok(Self {
            publisher,
            subscriber,
            _node: node,
        })
    }

    /// Publishes one message.
    #[inline]
    pub fn send(&mut self, message: &Payload) -> Result<()> {
        let sample = self
            .publisher
            .loan_uninit()
            .map_err(|error| anyhow!("iceoryx2 lends nothing: {error:?}"))?;
        sample
            .write_payload(*message)
            .send()
            .map_err(|error| anyhow!("iceoryx2 does not send: {error:?}"))?;
        Ok(())
    }

    /// Takes one message, if there is one.
    #[inline]
    pub fn try_receive(&mut self, message: &mut Payload) -> Result<bool> {
        let sample = self
            .subscriber
            .receive()
            .map_err(|error| anyhow!("iceoryx2 does not receive: {error:?}"))?;
        match sample {
            Some(sample) => {
                *message = *sample.payload();
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// What iceoryx2 makes, to be removed.
pub struct Files {
    directory: TempDir,
    prefix: String,
}

impl Files {
    /// A directory and a prefix of this process.
    pub fn new() -> Result<Self> {
        Ok(Self {
            directory: tempfile::Builder::new()
                .prefix("vmshm-bench-")
                .tempdir()
                .context("cannot make a directory for iceoryx2")?,
            prefix: format!("vmshm_bench_{}_", std::process::id()),
        })
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// How its shared memory's names begin.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The configuration that keeps everything there.
    pub fn config(&self) -> Result<Config> {
        config(self.directory(), &self.prefix)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let names = std::fs::read_dir(SHARED_MEMORY).into_iter().flatten();
        for file in names.flatten() {
            if file.file_name().to_string_lossy().starts_with(&self.prefix) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

/// iceoryx2's defaults, with everything below `directory` and under `prefix`.
pub fn config(directory: &Path, prefix: &str) -> Result<Config> {
    let wrong = |error| anyhow!("iceoryx2 does not take the name: {error:?}");
    let path = directory
        .to_str()
        .context("the directory's name is no text")?;
    let path = iceoryx2::prelude::Path::new(path.as_bytes()).map_err(wrong)?;
    let mut config = Config::default();
    config.global.set_root_path(&path);
    config.global.prefix = FileName::new(prefix.as_bytes()).map_err(wrong)?;
    Ok(config)
}
