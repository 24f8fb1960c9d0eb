//! The lines that a process says, kept while it runs.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::patience::wait_for;

/// Everything that has come so far.
#[derive(Debug)]
pub struct Lines {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    /// Reads `stream` to its end, in the background.
    #[must_use]
    pub fn collect(stream: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line), Ok(1..)) {
                let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
                collected.push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    /// What has come so far.
    #[must_use]
    pub fn so_far(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone()
    }

    /// Waits until `words` have come.
    ///
    /// # Panics
    /// When they do not come.
    pub fn wait_for(&self, words: &str, limit: Duration) {
        wait_for(&format!("{words:?} in the output"), limit, || {
            self.so_far().contains(words)
        });
    }

    /// Whether nothing more can come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Everything, once the stream has ended.
    #[must_use]
    pub fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.so_far()
    }
}
