//! Says on standard error what is going on while a step lasts: a spinner on a terminal, one plain line elsewhere.
//!
//! A step that takes less than a second says nothing. Standard output is never touched: scripts read it.

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How long a step may take without a word.
const SILENCE: Duration = Duration::from_secs(1);

/// A step that is under way; its spinner disappears when it is dropped.
pub struct Step {
    /// Closed when the step ends.
    running: Option<Sender<()>>,
    shown: Option<std::thread::JoinHandle<()>>,
}

impl Step {
    /// Starts a step that is called `message`.
    pub fn start(message: impl Into<String>) -> Self {
        let message = message.into();
        let (running, ended) = channel();
        Self {
            running: Some(running),
            shown: Some(std::thread::spawn(move || show(&message, &ended))),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // Closes the channel, so that the thread ends, and with it the spinner.
        drop(self.running.take());
        if let Some(shown) = self.shown.take() {
            let _ = shown.join();
        }
    }
}

/// Shows the step from its first second to its end.
fn show(message: &str, ended: &Receiver<()>) {
    if ended.recv_timeout(SILENCE) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    if !std::io::stderr().is_terminal() {
        eprintln!("{message}");
        return;
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
        bar.set_style(style);
    }
    bar.set_message(message.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    let _ = ended.recv();
    bar.finish_and_clear();
}
