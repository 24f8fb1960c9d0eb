//! The window's life: opening it, dropping rights, drawing, passing on what the user does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vmshm_channel::Size;
use vmshm_channel::sink::{Condition, FromMonitor};
use winit::application::ApplicationHandler;
use winit::dpi::PhysicalSize;
use winit::event::{ElementState, KeyEvent, WindowEvent};
use winit::event_loop::{ActiveEventLoop, ControlFlow, EventLoopProxy};
use winit::keyboard::{KeyCode, ModifiersState, PhysicalKey};
use winit::window::{Fullscreen, Window, WindowAttributes, WindowId};

use super::input::Events;
use super::surface::{Over, WindowSurface};
use super::text::{Note, Place};
use super::title::{self, Facts};
use super::{Messenger, Order, no_display};
use crate::canvas::{Shown, lock};
use crate::feed::{Feed, News};
use crate::figures::{Figures, nanos};
use crate::os::{self, Keymaps};
use crate::post::Post;
use crate::sink::Failure;

/// A window that was not resized for so long has its size.
const SETTLED: Duration = Duration::from_millis(250);
/// How long the other side may take to agree to the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// A picture that is being copied is waited for so long, if a window must be drawn anew.
const HALF_COPIED: Duration = Duration::from_millis(100);
/// The window's size before anything is known.
const FIRST_SIZE: PhysicalSize<u32> = PhysicalSize::new(1024, 768);

/// All that there is once the window is open.
struct View {
    window: Arc<Window>,
    surface: WindowSurface,
    keymaps: Keymaps,
    /// The window system says when it wants a picture, and keeps what was drawn.
    is_paced: bool,
}

/// The window's state.
pub struct App {
    order: Order,
    post: Post,
    shown: Arc<std::sync::Mutex<Shown>>,
    figures: Arc<std::sync::Mutex<Figures>>,
    proxy: EventLoopProxy<News>,
    /// Until it is started.
    feed: Option<Feed>,
    is_picture_waiting: Arc<AtomicBool>,
    wants_figures: Arc<AtomicBool>,
    view: Option<View>,
    facts: Facts,
    title: String,
    over: Over,
    events: Events,
    modifiers: ModifiersState,
    is_pointer_hidden: bool,
    /// When the window's size is taken to stay.
    settles: Option<Instant>,
    /// Draw all, though a copy may be under way by then.
    draw_again: Option<Instant>,
    /// The user has closed the window.
    leaves: Option<Instant>,
    failure: Option<Failure>,
}

impl App {
    /// Opens nothing yet.
    pub fn new(feed: Feed, order: Order, proxy: EventLoopProxy<News>) -> Self {
        Self {
            post: feed.post.clone(),
            shown: Arc::clone(&feed.shown),
            figures: Arc::clone(&feed.figures),
            proxy,
            facts: Facts::new(&order.vm),
            wants_figures: Arc::new(AtomicBool::new(order.stats_overlay)),
            is_picture_waiting: Arc::default(),
            order,
            feed: Some(feed),
            view: None,
            title: String::new(),
            over: Over::default(),
            events: Events::default(),
            modifiers: ModifiersState::empty(),
            is_pointer_hidden: false,
            settles: None,
            draw_again: None,
            leaves: None,
            failure: None,
        }
    }

    /// Why it ended, if that was not wanted.
    pub fn into_failure(self) -> Option<Failure> {
        self.failure
    }

    fn fail(&mut self, event_loop: &ActiveEventLoop, failure: Failure) {
        self.failure.get_or_insert(failure);
        event_loop.exit();
    }

    /// Opens the window, starts the feed, and drops all rights.
    fn open(&mut self, event_loop: &ActiveEventLoop) -> Result<(), Failure> {
        let is_paced = os::window::is_paced(event_loop);
        let fullscreen = self.order.fullscreen;
        let attributes = WindowAttributes::default()
            .with_title(self.facts.title())
            .with_inner_size(FIRST_SIZE)
            .with_fullscreen(fullscreen.then_some(Fullscreen::Borderless(None)));
        let attributes = os::window::named(attributes, event_loop, "vmshm-monitor");
        let window = event_loop
            .create_window(attributes)
            .map_err(|error| no_display(&error.to_string()))?;
        let window = Arc::new(window);
        let surface = WindowSurface::new(&window, self.order.scaling)
            .map_err(|error| no_display(&error.to_string()))?;
        self.view = Some(View {
            window,
            surface,
            keymaps: Keymaps::open(is_paced),
            is_paced,
        });
        self.say();
        // Whatever drawing needs is there after it was done once.
        self.draw(event_loop, true);
        let words = os::confine_this_thread();
        self.start_feed()?;
        let confinement = os::confine_process(words);
        let keymap = self.view.as_mut().and_then(|view| view.keymaps.text());
        self.post.send(&FromMonitor::Ready {
            confinement,
            keymap,
        });
        Ok(())
    }

    fn start_feed(&mut self) -> Result<(), Failure> {
        let Some(feed) = self.feed.take() else {
            return Ok(());
        };
        let mut messenger = Messenger {
            proxy: self.proxy.clone(),
            is_picture_waiting: Arc::clone(&self.is_picture_waiting),
            wants_figures: Arc::clone(&self.wants_figures),
        };
        std::thread::Builder::new()
            .name("feed".to_owned())
            .spawn(move || feed.run(&mut messenger))
            .map(drop)
            .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))
    }

    /// Draws what has changed, or all.
    fn draw(&mut self, event_loop: &ActiveEventLoop, whole: bool) {
        let Some(view) = &mut self.view else {
            return;
        };
        let now = Instant::now();
        let mut shown = lock(&self.shown);
        let is_due = self.draw_again.is_some_and(|due| now >= due);
        if shown.serial != 0 && !shown.is_whole && !is_due {
            // The end of the copy draws it; or time, if the guest dies over it.
            if whole {
                self.draw_again.get_or_insert(now + HALF_COPIED);
            }
            return;
        }
        let whole = whole || self.draw_again.take().is_some();
        let had_picture = std::mem::replace(&mut self.facts.has_picture, shown.serial != 0);
        let hide = shown.has_pointer && self.facts.input.is_ok() && shown.serial != 0;
        if hide != std::mem::replace(&mut self.is_pointer_hidden, hide) {
            view.window.set_cursor_visible(!hide);
        }
        let whole = if had_picture == self.facts.has_picture {
            whole
        } else {
            self.over.message = note_of_trouble(&self.facts, &view.window);
            true
        };
        let drawn = view
            .surface
            .draw(&view.window, &mut shown, &self.over, whole);
        drop(shown);
        if had_picture != self.facts.has_picture {
            self.say();
        }
        match drawn {
            Ok(()) => lock(&self.figures).present.add(nanos(now.elapsed())),
            Err(error) => {
                let message = format!("the window cannot be drawn: {error}");
                self.fail(event_loop, Failure::new(message));
            }
        }
    }

    /// Sets the title and the note over the picture by the facts.
    fn say(&mut self) {
        let Some(view) = &self.view else {
            return;
        };
        let title = self.facts.title();
        if title != self.title {
            view.window.set_title(&title);
            self.title = title;
        }
        self.over.message = note_of_trouble(&self.facts, &view.window);
    }

    fn take_screen(&mut self, name: String, mode: Size, input: Result<(), String>) {
        let before = self.facts.screen.replace((name, mode));
        self.facts.input = input;
        self.say();
        let Some(view) = &self.view else {
            return;
        };
        let size_of = |mode: &Size| PhysicalSize::new(mode.width, mode.height);
        let mode = size_of(&mode);
        let inner = view.window.inner_size();
        // The window takes the first mode's size. Later it follows the guest as long as it shows
        // pictures as they are, and does not lead itself.
        let follows = match &before {
            None => true,
            Some((_, before)) => !self.order.follow && size_of(before) == inner,
        };
        if follows && inner != mode && view.window.fullscreen().is_none() {
            let room = view.window.current_monitor().map(|monitor| monitor.size());
            let fits =
                room.is_none_or(|room| mode.width <= room.width && mode.height <= room.height);
            if fits {
                let _ = view.window.request_inner_size(mode);
            }
        }
        if before.is_none() {
            self.settles = Some(Instant::now() + SETTLED);
        }
    }

    /// The window has had its size for long enough.
    fn settle(&mut self) {
        self.settles = None;
        let (Some(view), Some((_, mode))) = (&self.view, &self.facts.screen) else {
            return;
        };
        let inner = view.window.inner_size();
        if (inner.width, inner.height) == (mode.width, mode.height) || inner.width == 0 {
            return;
        }
        self.post.send(&FromMonitor::Resized {
            size: Size {
                width: inner.width,
                height: inner.height,
                refresh_millihertz: 0,
            },
        });
    }

    fn take_key(&mut self, event_loop: &ActiveEventLoop, event: &KeyEvent, is_synthetic: bool) {
        if self.take_own_key(event_loop, event) {
            return;
        }
        let Some(view) = &mut self.view else {
            return;
        };
        // Keys that were down when the window got the focus are not meant for it.
        if self.facts.input.is_err() || is_synthetic {
            return;
        }
        if let Some(text) = view.keymaps.changed() {
            send_events(&self.post, &mut self.events);
            self.post.send(&FromMonitor::Keymap { text });
        }
        let is_lock = self.events.key(event);
        if is_lock && let Some(locks) = view.keymaps.locks() {
            self.events.locks(locks);
        }
    }

    /// F11 and F10 without modifiers are the window's own.
    fn take_own_key(&mut self, event_loop: &ActiveEventLoop, event: &KeyEvent) -> bool {
        let (true, PhysicalKey::Code(code @ (KeyCode::F10 | KeyCode::F11))) =
            (self.modifiers.is_empty(), event.physical_key)
        else {
            return false;
        };
        if event.state == ElementState::Released || event.repeat {
            return true;
        }
        if code == KeyCode::F11 {
            if let Some(view) = &self.view {
                let other = match view.window.fullscreen() {
                    Some(_) => None,
                    None => Some(Fullscreen::Borderless(None)),
                };
                view.window.set_fullscreen(other);
            }
        } else {
            let wanted = !self.wants_figures.fetch_xor(true, Ordering::Relaxed);
            self.over.figures = wanted.then(|| self.figures_note("figures follow"));
            self.draw(event_loop, true);
        }
        true
    }

    fn figures_note(&self, text: &str) -> Note {
        let scale = self.view.as_ref().map(|view| dot(&view.window));
        Note::new(text, Place::Corner, scale.unwrap_or(1))
    }

    fn lose_focus(&mut self) {
        if self.facts.input.is_ok() {
            self.events.release_all();
        }
        self.modifiers = ModifiersState::empty();
    }
}

impl ApplicationHandler<News> for App {
    fn resumed(&mut self, event_loop: &ActiveEventLoop) {
        if self.view.is_none()
            && let Err(failure) = self.open(event_loop)
        {
            self.fail(event_loop, failure);
        }
    }

    fn user_event(&mut self, event_loop: &ActiveEventLoop, news: News) {
        match news {
            News::Picture(_) => {
                // Before the picture is locked: see `Messenger`.
                self.is_picture_waiting.store(false, Ordering::Relaxed);
                match &self.view {
                    // Drawn when the window system wants a picture.
                    Some(view) if view.is_paced => view.window.request_redraw(),
                    _ => self.draw(event_loop, false),
                }
                return;
            }
            News::Screen { name, mode, input } => {
                self.take_screen(name, mode, input);
                return;
            }
            News::Condition(condition) => {
                if condition != Condition::Running {
                    self.lose_focus();
                }
                self.facts.condition = condition;
            }
            News::Source { is_gone } => self.facts.is_gone = is_gone,
            News::Stats(stats) => {
                if self.wants_figures.load(Ordering::Relaxed) {
                    self.over.figures = Some(self.figures_note(&title::figures(&stats)));
                    self.draw(event_loop, true);
                }
                return;
            }
            News::End => {
                event_loop.exit();
                return;
            }
        }
        self.say();
        self.draw(event_loop, true);
    }

    fn window_event(&mut self, event_loop: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        let takes_input = self.facts.input.is_ok();
        match event {
            WindowEvent::CloseRequested if self.leaves.is_none() => {
                self.lose_focus();
                send_events(&self.post, &mut self.events);
                self.post.send(&FromMonitor::Closed);
                self.leaves = Some(Instant::now() + FAREWELL);
            }
            WindowEvent::RedrawRequested => {
                // Lost is what was there, unless the next picture is wanted.
                let whole = self.view.as_ref().is_some_and(|view| !view.is_paced);
                self.draw(event_loop, whole);
            }
            WindowEvent::Resized(_) => {
                self.settles = Some(Instant::now() + SETTLED);
                self.say();
                self.draw(event_loop, true);
            }
            WindowEvent::CursorMoved { position, .. } if takes_input => {
                let layout = self.view.as_ref().and_then(|view| view.surface.layout());
                if let Some(layout) = layout {
                    self.events.pointer(layout, position.x, position.y);
                }
            }
            WindowEvent::MouseInput { state, button, .. } if takes_input => {
                self.events.button(button, state);
            }
            WindowEvent::MouseWheel { delta, .. } if takes_input => self.events.wheel(delta),
            WindowEvent::KeyboardInput {
                event,
                is_synthetic,
                ..
            } => self.take_key(event_loop, &event, is_synthetic),
            WindowEvent::ModifiersChanged(modifiers) => self.modifiers = modifiers.state(),
            WindowEvent::Focused(true) => {
                if takes_input
                    && let Some(locks) = self.view.as_ref().and_then(|view| view.keymaps.locks())
                {
                    self.events.locks(locks);
                }
            }
            WindowEvent::Focused(false) => self.lose_focus(),
            _ => {}
        }
    }

    fn about_to_wait(&mut self, event_loop: &ActiveEventLoop) {
        send_events(&self.post, &mut self.events);
        let now = Instant::now();
        let is_over = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if is_over(self.leaves) {
            event_loop.exit();
        }
        if is_over(self.settles) {
            self.settle();
        }
        if is_over(self.draw_again) {
            self.draw(event_loop, true);
        }
        let next = [self.leaves, self.settles, self.draw_again]
            .into_iter()
            .flatten()
            .min();
        event_loop.set_control_flow(next.map_or(ControlFlow::Wait, ControlFlow::WaitUntil));
    }
}

fn send_events(post: &Post, events: &mut Events) {
    let events = events.take();
    if !events.is_empty() {
        post.send(&FromMonitor::Input { events });
    }
}

/// What stands in the middle of the window, if anything.
fn note_of_trouble(facts: &Facts, window: &Window) -> Option<Note> {
    let text = match facts.trouble() {
        Some(trouble) => trouble,
        None if facts.has_picture => return None,
        None => "waiting for the first picture".to_owned(),
    };
    Some(Note::new(&text, Place::Middle, 2 * dot(window)))
}

/// How many pixels a dot of a letter has in figures; notes have twice as many.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped before"
)]
fn dot(window: &Window) -> u32 {
    window.scale_factor().round().clamp(1.0, 4.0) as u32
}
