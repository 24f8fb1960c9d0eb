//! `vmshm-monitor`: shows a screen of a guest. `vmshm display` starts it and hands it the
//! frames' memory over its standard input; it knows no VM and no guest RAM beyond that.
//!
//! What it shows was written by a guest that may be hostile. So it opens its window first,
//! then gives up what it does not need ([`os`]), and only then maps guest memory. It
//! refuses arguments: everything comes over the channel.

mod canvas;
mod feed;
mod figures;
mod frames_memory;
mod intake;
mod os;
mod pacing;
mod post;
mod sink;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vmshm_channel::sink::{FromMonitor, Sink, ToMonitor};
use vmshm_channel::{Channel, ChannelError};

use crate::feed::Feed;
use crate::figures::Figures;
use crate::intake::Terms;
use crate::post::Post;
use crate::sink::Failure;

/// How long the first message, and the taking of the last ones, may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        eprintln!("vmshm-monitor takes no arguments: `vmshm display` starts it.");
        return ExitCode::from(2);
    }
    let ends = vmshm_channel::inherited()
        .and_then(|in_end| vmshm_channel::inherited().map(|out_end| (in_end, Post::new(out_end))));
    let Ok((incoming, post)) = ends else {
        eprintln!("vmshm-monitor: no channel on standard input; `vmshm display` starts it.");
        return ExitCode::from(2);
    };
    os::lost_memory::install(last_words());
    let result = match run(incoming, &post) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, hint }) => {
            post.send(&FromMonitor::Failed { message, hint });
            ExitCode::FAILURE
        }
    };
    post.drain(PATIENCE);
    result
}

fn run(mut incoming: Channel, post: &Post) -> Result<(), Failure> {
    let (start, descriptor) = match incoming.next::<ToMonitor>(PATIENCE) {
        Ok(message) => message,
        Err(ChannelError::Closed) => return Ok(()),
        Err(error) => return Err(Failure::new(error.to_string())),
    };
    let ToMonitor::Start {
        sink,
        vm,
        stats_every_millis,
        stats_overlay,
    } = start
    else {
        return Err(Failure::new("the first message was not a start"));
    };
    let every = Duration::from_millis(stats_every_millis);
    let mut feed = Feed {
        incoming,
        post: post.clone(),
        shown: Arc::default(),
        figures: Arc::new(Mutex::new(Figures::new(Instant::now()))),
        stats_every: Some(every).filter(|every| !every.is_zero()),
        terms: Terms::default(),
    };
    match sink {
        Sink::Window {
            fullscreen,
            scaling,
            follow,
        } => sink::window::run(
            feed,
            sink::window::Order {
                vm,
                fullscreen,
                scaling,
                follow,
                stats_overlay,
            },
        ),
        Sink::Picture { size } => {
            let file = descriptor.ok_or_else(|| Failure::new("no file came for the picture"))?;
            feed.terms = Terms {
                fresh: true,
                no_pointer: true,
                size: size.map(|size| (size.width, size.height)),
            };
            become_ready(post);
            sink::picture::run(feed, file)
        }
        Sink::Nowhere { verify } => {
            become_ready(post);
            sink::nowhere::run(feed, verify);
            Ok(())
        }
    }
}

fn become_ready(post: &Post) {
    let confinement = os::confine_process(os::confine_this_thread());
    post.send(&FromMonitor::Ready {
        confinement,
        keymap: None,
    });
}

/// The channel's frame for when mapped memory is taken away.
fn last_words() -> Vec<u8> {
    let words = FromMonitor::Failed {
        message: os::lost_memory::MESSAGE.to_owned(),
        hint: Some(os::lost_memory::HINT.to_owned()),
    };
    vmshm_channel::frame(&words).unwrap_or_default()
}
