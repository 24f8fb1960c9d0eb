//! A window: shows pictures, takes input, says how the guest is.
//!
//! The window's thread waits for the display and for news of the [`Feed`], which looks for frames
//! on a thread of its own. It refuses to open anything after its rights are dropped.

mod app;
mod input;
mod layout;
mod painter;
mod surface;
mod text;
mod title;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmshm_channel::sink::Scaling;
use winit::event_loop::{ControlFlow, EventLoop, EventLoopProxy};

use self::app::App;
use super::Failure;
use crate::feed::{Feed, News, Show};
use crate::os;

/// What was ordered.
#[derive(Debug)]
pub struct Order {
    /// The VM's name.
    pub vm: String,
    /// Whether to start in fullscreen.
    pub fullscreen: bool,
    /// How pictures fill the window.
    pub scaling: Scaling,
    /// Whether the guest's mode follows the window's size.
    pub follow: bool,
    /// Whether figures are drawn over the picture.
    pub stats_overlay: bool,
}

/// Shows a screen until the end.
///
/// # Errors
/// [`Failure`] without a display, or when it fails.
pub fn run(feed: Feed, order: Order) -> Result<(), Failure> {
    os::window::look_for_display().map_err(no_display)?;
    let event_loop = EventLoop::<News>::with_user_event()
        .build()
        .map_err(|error| no_display(&error.to_string()))?;
    event_loop.set_control_flow(ControlFlow::Wait);
    let mut app = App::new(feed, order, event_loop.create_proxy());
    let ended = event_loop.run_app(&mut app);
    match (app.into_failure(), ended) {
        (Some(failure), _) => Err(failure),
        (None, Err(error)) => Err(Failure::new(format!("the display has failed: {error}"))),
        (None, Ok(())) => Ok(()),
    }
}

fn no_display(reason: &str) -> Failure {
    Failure {
        message: format!("no display: {reason}"),
        hint: Some("--screenshot FILE.png needs no display".to_owned()),
    }
}

/// Brings the feed's news to the window's thread. A picture is only told of while no earlier
/// one is still to be drawn.
#[derive(Debug)]
struct Messenger {
    proxy: EventLoopProxy<News>,
    is_picture_waiting: Arc<AtomicBool>,
    wants_figures: Arc<AtomicBool>,
}

impl Show for Messenger {
    fn tell(&mut self, news: News) -> bool {
        let worth_telling = match news {
            // The window's thread clears this before it locks the picture, and the picture was
            // unlocked before this is set: the lock orders them.
            News::Picture(_) => !self.is_picture_waiting.swap(true, Ordering::Relaxed),
            News::Stats(_) => self.wants_figures.load(Ordering::Relaxed),
            _ => true,
        };
        !worth_telling || self.proxy.send_event(news).is_ok()
    }
}
