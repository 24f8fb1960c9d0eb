//! What readers do at screens, handed to the compositor: a pointer for each screen, a keyboard for
//! each keymap. Devices are made when somebody first does something, and go when those who did
//! have gone; who only looks leaves the desktop as it is.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmshm_channel::source::FromSource;
use vmshm_link::input::InputEvent;
use vmshm_link::screens::MAX_KEYMAP;
use wayland_client::QueueHandle;

use super::desk::Desk;
use super::held::Who;
use super::keyboard::{KeyEvent, Keyboard};
use super::keymap::parse;
use super::pointer::Pointer;

/// How long no keyboard is made after one has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// All devices.
#[derive(Debug)]
pub struct Hands {
    socket: String,
    pointers: BTreeMap<u64, Pointer>,
    keyboards: Vec<Keyboard>,
    keymaps: BTreeMap<Who, Arc<str>>,
    users: BTreeSet<Who>,
    pause_until: Option<Instant>,
}

impl Hands {
    /// No devices yet; keyboards connect to `socket`.
    pub fn new(socket: &str) -> Self {
        Self {
            socket: socket.to_owned(),
            pointers: BTreeMap::new(),
            keyboards: Vec::new(),
            keymaps: BTreeMap::new(),
            users: BTreeSet::new(),
            pause_until: None,
        }
    }

    /// The keyboards, to poll.
    pub fn keyboards(&self) -> &[Keyboard] {
        &self.keyboards
    }

    /// Somebody does something. A compositor that takes nothing (`blocked`) misses all but what
    /// lets go.
    pub fn take(
        &mut self,
        who: Who,
        event: InputEvent,
        desk: &Desk,
        handle: &QueueHandle<Desk>,
        blocked: bool,
    ) {
        let lets_go = matches!(
            event,
            InputEvent::ReleaseAll
                | InputEvent::Key { pressed: false, .. }
                | InputEvent::Button { pressed: false, .. }
        );
        if blocked && !lets_go {
            return;
        }
        let key = match event {
            InputEvent::Key { code, pressed } => Some(KeyEvent::Key { code, pressed }),
            InputEvent::Locks { locks, group } => Some(KeyEvent::Locks { locks, group }),
            InputEvent::ReleaseAll => {
                self.release(|one| one == who);
                return;
            }
            _ => None,
        };
        self.users.insert(who);
        // Made at any first event, so that it is there when the first key comes.
        if let Some(keyboard) = self.keyboard(who, desk)
            && let Some(key) = key
        {
            keyboard.take(who, key);
        }
        if key.is_none()
            && let Some(pointer) = self.pointer(who.0, desk, handle)
        {
            pointer.take(who, event);
        }
    }

    /// A reader's key codes mean something else from now on.
    pub fn set_keymap(&mut self, who: Who, text: &str, out: &mut Vec<FromSource>) {
        if text.len() as u64 > MAX_KEYMAP {
            return;
        }
        if let Err(error) = parse(text) {
            let message =
                format!("the host's keymap is not understood ({error}); the guest's own is used");
            out.push(FromSource::Note { message });
            self.keymaps.remove(&who);
            return;
        }
        let known = self.keymaps.values().find(|known| known.as_ref() == text);
        let text = known.cloned().unwrap_or_else(|| Arc::from(text));
        if self.keymaps.get(&who) == Some(&text) {
            return;
        }
        for keyboard in &mut self.keyboards {
            keyboard.release(|one| one == who);
        }
        self.keymaps.insert(who, text);
        self.drop_unused();
    }

    /// Which readers a screen has: who is not among them lets go.
    pub fn set_readers(&mut self, screen: u64, readers: &[usize]) {
        let gone = |who: Who| who.0 == screen && !readers.contains(&who.1);
        if !self.users.iter().any(|who| gone(*who)) && !self.keymaps.keys().any(|who| gone(*who)) {
            return;
        }
        self.release(gone);
        self.users.retain(|who| !gone(*who));
        self.keymaps.retain(|who, _| !gone(*who));
        self.drop_unused();
    }

    fn release(&mut self, goes: impl Fn(Who) -> bool) {
        for pointer in self.pointers.values_mut() {
            pointer.release(&goes);
        }
        for keyboard in &mut self.keyboards {
            keyboard.release(&goes);
        }
    }

    fn drop_unused(&mut self) {
        let users = &self.users;
        let keymaps = &self.keymaps;
        self.pointers
            .retain(|screen, _| users.iter().any(|who| who.0 == *screen));
        self.keyboards.retain_mut(|keyboard| {
            let used = users.iter().any(|who| keymaps.get(who) == keyboard.text());
            if !used {
                keyboard.release(|_| true);
                // It goes in any case.
                let _ = keyboard.flush();
            }
            used
        });
    }

    /// Goes on with what waits. When to look again, if anything waits for time.
    pub fn step(&mut self, out: &mut Vec<FromSource>) -> Option<Duration> {
        let waits = self.pointers.values_mut().filter_map(Pointer::step).min();
        let mut wait = waits;
        let mut failed = None;
        let keymaps = &mut self.keymaps;
        self.keyboards.retain_mut(|keyboard| match keyboard.step() {
            Ok(next) => {
                wait = wait.into_iter().chain(next).min();
                true
            }
            Err(error) => {
                // A keymap that ended a connection is not tried again.
                if let Some(text) = keyboard.text() {
                    keymaps.retain(|_, known| known != text);
                }
                failed = Some(error);
                false
            }
        });
        if let Some(error) = failed {
            self.pause_until = Some(Instant::now() + PAUSE);
            let message = format!("a keyboard of the guest's desktop has failed: {error}");
            out.push(FromSource::Note { message });
        }
        wait
    }

    /// Everybody lets go, and all devices vanish.
    pub fn end(&mut self) {
        self.users.clear();
        self.release(|_| true);
        self.drop_unused();
    }

    fn keyboard(&mut self, who: Who, desk: &Desk) -> Option<&mut Keyboard> {
        if !desk.keyboards {
            return None;
        }
        let text = self.keymaps.get(&who).cloned();
        let known = |keyboard: &Keyboard| keyboard.text() == text.as_ref();
        if let Some(index) = self.keyboards.iter().position(known) {
            return self.keyboards.get_mut(index);
        }
        if self.pause_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        match Keyboard::new(&self.socket, text) {
            Ok(keyboard) => {
                self.keyboards.push(keyboard);
                self.keyboards.last_mut()
            }
            Err(error) => {
                tracing::warn!("no keyboard: {error}");
                self.pause_until = Some(Instant::now() + PAUSE);
                None
            }
        }
    }

    fn pointer(
        &mut self,
        screen: u64,
        desk: &Desk,
        handle: &QueueHandle<Desk>,
    ) -> Option<&mut Pointer> {
        match self.pointers.entry(screen) {
            Entry::Occupied(pointer) => Some(pointer.into_mut()),
            Entry::Vacant(place) => {
                let output = desk.output(screen)?;
                let manager = desk.pointers.as_ref()?;
                let proxy = manager.create_virtual_pointer_with_output(
                    desk.seat.as_ref(),
                    Some(&output.proxy),
                    handle,
                    (),
                );
                Some(place.insert(Pointer::new(proxy)))
            }
        }
    }
}
