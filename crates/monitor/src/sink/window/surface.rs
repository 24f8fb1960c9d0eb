//! The window's pixels: which of them must be drawn anew, drawing them, and presenting no more
//! than has changed.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use softbuffer::{Context, Rect, SoftBufferError, Surface};
use vmshm_channel::sink::Scaling;
use vmshm_link::frames::{Damage, Rectangle};
use winit::window::Window;

use super::layout::Layout;
use super::painter::{Painter, Target};
use super::text::Note;
use crate::canvas::Shown;
use crate::os::window::ROOM_AHEAD;

/// How many presented damages are remembered: no window system keeps more buffers.
const REMEMBERED: usize = 4;
/// What to draw over the picture.
#[derive(Debug, Default)]
pub struct Over {
    /// In the middle, over a dimmed picture.
    pub message: Option<Note>,
    /// In the corner.
    pub figures: Option<Note>,
}

/// A window's pixels.
pub struct WindowSurface {
    surface: Surface<Arc<Window>, Arc<Window>>,
    painter: Painter,
    scaling: Scaling,
    size: (u32, u32),
    layout: Option<Layout>,
    /// What was drawn with the last presents, the newest first.
    history: VecDeque<Damage>,
}

impl WindowSurface {
    /// Makes a surface, and room for large windows where it cannot be made later.
    pub fn new(window: &Arc<Window>, scaling: Scaling) -> Result<Self, SoftBufferError> {
        let context = Context::new(Arc::clone(window))?;
        let mut surface = Surface::new(&context, Arc::clone(window))?;
        if let Some(room) = ROOM_AHEAD {
            let monitors = window.available_monitors();
            let (width, height) = monitors.fold(room, |(width, height), monitor| {
                let size = monitor.size();
                (width.max(size.width), height.max(size.height))
            });
            if let (Some(width), Some(height)) = (NonZeroU32::new(width), NonZeroU32::new(height)) {
                surface.resize(width, height)?;
            }
        }
        Ok(Self {
            surface,
            painter: Painter::default(),
            scaling,
            size: (0, 0),
            layout: None,
            history: VecDeque::new(),
        })
    }

    /// How the picture lies in the window, once it was drawn.
    pub const fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    /// Draws what has changed, or all, and presents it.
    ///
    /// # Errors
    /// What the window system says.
    pub fn draw(
        &mut self,
        window: &Window,
        shown: &mut Shown,
        over: &Over,
        whole: bool,
    ) -> Result<(), SoftBufferError> {
        let inner = window.inner_size();
        let (Some(width), Some(height)) =
            (NonZeroU32::new(inner.width), NonZeroU32::new(inner.height))
        else {
            return Ok(());
        };
        let size = (inner.width, inner.height);
        if self.size != size {
            self.surface.resize(width, height)?;
            self.history.clear();
            self.layout = None;
            self.size = size;
        }
        let layout = Layout::fit(size, shown.canvas.size(), self.scaling);
        let everything = Rectangle::whole(size.0, size.1);
        let moved = self.layout != Some(layout);
        self.layout = Some(layout);
        let changed = shown.take_damage();
        let mut fresh = Damage::none();
        if whole || moved || over.message.is_some() {
            fresh.add(everything);
        } else {
            for part in changed.rectangles() {
                fresh.add(layout.window_part(part).intersection(&everything));
            }
        }
        if let Some(figures) = &over.figures {
            fresh.add(figures.area(size));
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let mut buffer = self.surface.buffer_mut()?;
        // What other buffers got meanwhile is missing in this one.
        let parts = match usize::from(buffer.age()) {
            age if age >= 1 && age <= self.history.len() + 1 => {
                let mut parts = fresh;
                for missed in self.history.iter().take(age - 1) {
                    parts.add_all(missed);
                }
                parts
            }
            _ => {
                let mut parts = Damage::none();
                parts.add(everything);
                parts
            }
        };
        let mut target = Target {
            pixels: &mut buffer,
            width: size.0,
            height: size.1,
        };
        for part in parts.rectangles() {
            self.painter
                .paint(&mut target, &shown.canvas, &layout, part);
        }
        if let Some(figures) = &over.figures {
            figures.draw(&mut target);
        }
        if let Some(message) = &over.message {
            target.dim(&everything);
            message.draw(&mut target);
        }
        window.pre_present_notify();
        buffer.present_with_damage(&rectangles(&fresh))?;
        self.history.push_front(fresh);
        self.history.truncate(REMEMBERED);
        Ok(())
    }
}

fn rectangles(damage: &Damage) -> Vec<Rect> {
    let rectangles = damage.rectangles().iter();
    rectangles
        .filter_map(|part| {
            Some(Rect {
                x: part.x,
                y: part.y,
                width: NonZeroU32::new(part.width)?,
                height: NonZeroU32::new(part.height)?,
            })
        })
        .collect()
}
