//! A stage for tests: an agent whose source processes and surveys the test plays.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use vmshm_channel::source::{FromSource, Kind, PixelMemory, Screen as About, ToSource};
use vmshm_channel::{Channel, Size};
use vmshm_link::control::{RefusalCode, RegionReply, Reply, Request};
use vmshm_link::frames::Mode;
use vmshm_link::screens::{ScreenReply, ScreenRequest};
use vmshm_screens::wlroots::Found;

use super::super::service::Service;
use super::super::simulation::{Guest, Host, turn};
use super::start::{Started, Starter};
use super::{Findings, Offer, Screens};

/// Tries of a millisecond for what takes a moment where nothing is wrong.
const TRIES: usize = 20_000;

type Queue = Arc<Mutex<VecDeque<(Kind, Option<(u32, u32)>, Channel)>>>;

#[derive(Debug)]
struct Played(Queue);

impl Starter for Played {
    fn start(&mut self, kind: &Kind, user: Option<(u32, u32)>) -> io::Result<Started> {
        let (ours, theirs) = UnixStream::pair()?;
        let channel = Channel::new(theirs)?;
        let mut queue = self.0.lock().expect("not poisoned");
        queue.push_back((kind.clone(), user, channel));
        Ok(Started {
            channel: Channel::new(ours)?,
            child: None,
        })
    }
}

/// An agent, and what surveys will find.
pub(super) struct Stage {
    pub(super) guest: Guest,
    pub(super) service: Service,
    pub(super) findings: Arc<Mutex<Findings>>,
    started: Queue,
}

impl Stage {
    pub(super) fn new(offer: Offer, findings: Findings) -> Self {
        let findings = Arc::new(Mutex::new(findings));
        let started = Queue::default();
        let found = Arc::clone(&findings);
        let survey = move || found.lock().expect("not poisoned").clone();
        let starter = Played(Arc::clone(&started));
        let mut guest = Guest::new();
        guest.screens = Some(Screens::new(offer, starter, survey).expect("descriptors"));
        let service = guest.start_agent();
        Self {
            guest,
            service,
            findings,
            started,
        }
    }

    /// With one compositor of user 1000.
    pub(super) fn with_sway() -> Self {
        Self::new(Offer::ALL, sway())
    }

    pub(super) fn host(&mut self, slot: usize) -> Host {
        Host::attach(&self.guest, &mut self.service, slot)
    }

    pub(super) fn turn(&mut self) {
        turn(&mut self.service);
    }

    /// As many looks as pass in so many seconds.
    pub(super) fn pass(&mut self, seconds: u64) {
        for _ in 0..super::looks(seconds) {
            self.service.look_at_screens().expect("looks");
            self.turn();
        }
    }

    /// Turns until something is there.
    pub(super) fn until<T>(&mut self, mut ready: impl FnMut(&mut Self) -> Option<T>) -> T {
        for _ in 0..TRIES {
            self.turn();
            if let Some(value) = ready(self) {
                return value;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("it does not come");
    }

    /// The next source process that is started.
    pub(super) fn source(&mut self) -> Source {
        let started = Arc::clone(&self.started);
        let (kind, user, channel) =
            self.until(|_| started.lock().expect("not poisoned").pop_front());
        let mut source = Source {
            channel,
            kind,
            user,
            input: false,
        };
        match source.hear(self) {
            ToSource::Start { kind, input } => {
                assert_eq!(kind, source.kind);
                source.input = input;
            }
            other => panic!("{other:?}"),
        }
        source
    }

    pub(super) fn starts_nothing(&mut self) -> bool {
        self.turn();
        self.started.lock().expect("not poisoned").is_empty()
    }

    pub(super) fn ask(&mut self, host: &mut Host, request: ScreenRequest) -> Reply {
        host.send(&Request::Screen(request));
        self.reply(host)
    }

    pub(super) fn reply(&mut self, host: &mut Host) -> Reply {
        self.until(|_| host.receive())
    }

    pub(super) fn refused(&mut self, host: &mut Host, request: ScreenRequest) -> RefusalCode {
        match self.ask(host, request) {
            Reply::Refused { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn screen(&mut self, host: &mut Host, request: ScreenRequest) -> ScreenReply {
        as_screen(self.ask(host, request))
    }

    /// Starts the compositor's source with the outputs of these names, asked by `host`.
    pub(super) fn sway_with(&mut self, host: &mut Host, names: &[&str]) -> Source {
        host.send(&Request::Screen(ScreenRequest::Describe { number: 99 }));
        let mut source = self.source();
        source.list(names);
        assert!(matches!(self.reply(host), Reply::Refused { .. }));
        source
    }

    /// Watches and proves; the region.
    pub(super) fn watch(&mut self, host: &mut Host, screen: u64) -> RegionReply {
        let reply = self.ask(host, ScreenRequest::Watch { screen });
        let region = super::super::simulation::region(reply);
        if !region.ready {
            host.prove(&mut self.service, region.region);
        }
        region
    }
}

pub(super) fn as_screen(reply: Reply) -> ScreenReply {
    match reply {
        Reply::Screen(screen) => screen,
        other => panic!("a screen is expected, not {other:?}"),
    }
}

/// One compositor of user 1000.
pub(super) fn sway() -> Findings {
    Findings {
        compositors: vec![Found {
            pid: 77,
            uid: 1000,
            gid: 100,
            socket: "/run/user/1000/wayland-1".to_owned(),
            environment: vec![("SWAYSOCK".to_owned(), "/run/user/1000/ipc".to_owned())],
            name: "sway".to_owned(),
        }],
        ..Findings::default()
    }
}

pub(super) const fn mode(width: u32, height: u32) -> Mode {
    Mode {
        width,
        height,
        refresh_millihertz: 60_000,
    }
}

pub(super) const SIZE: Size = Size {
    width: 1280,
    height: 720,
    refresh_millihertz: 60_000,
};

/// An output as sway would describe it.
pub(super) fn about(number: u64, name: &str) -> About {
    About {
        screen: number,
        name: name.to_owned(),
        source: "sway (wlroots)".to_owned(),
        mode: SIZE,
        modes: vec![SIZE],
        any_size: true,
        scale_thousandths: 1000,
        input: true,
        set_mode: true,
        added: false,
        may_tear: false,
    }
}

/// A source process that the test plays.
pub(super) struct Source {
    pub(super) channel: Channel,
    pub(super) kind: Kind,
    pub(super) user: Option<(u32, u32)>,
    pub(super) input: bool,
}

impl Source {
    pub(super) fn say(&mut self, message: &FromSource) {
        self.channel.send(message, None).expect("sent");
    }

    /// Lists outputs of these names, numbered from 1.
    pub(super) fn list(&mut self, names: &[&str]) {
        let outputs = (1..).zip(names).map(|(number, name)| about(number, name));
        self.say(&FromSource::Screens {
            screens: outputs.collect(),
            can_add: true,
        });
    }

    pub(super) fn hear(&mut self, stage: &mut Stage) -> ToSource {
        self.hear_with(stage).0
    }

    pub(super) fn hear_with(&mut self, stage: &mut Stage) -> (ToSource, Option<OwnedFd>) {
        stage.until(|_| {
            self.channel.flush().expect("flushed");
            self.channel.receive().expect("a message")
        })
    }

    pub(super) fn hears_nothing(&mut self, stage: &mut Stage) -> bool {
        stage.turn();
        let heard = self.channel.receive::<ToSource>().expect("open");
        assert!(heard.is_none(), "{heard:?}");
        true
    }

    /// Hears that a screen is watched, by whom.
    pub(super) fn watched(&mut self, stage: &mut Stage) -> (OwnedFd, Vec<usize>) {
        let (message, file) = self.hear_with(stage);
        assert!(matches!(message, ToSource::Watch { .. }), "{message:?}");
        (file.expect("the frames"), self.readers(stage))
    }

    pub(super) fn readers(&mut self, stage: &mut Stage) -> Vec<usize> {
        match self.hear(stage) {
            ToSource::Readers { readers, .. } => readers,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for pixels; the region, or why not.
    pub(super) fn pixels(
        &mut self,
        stage: &mut Stage,
        screen: u64,
        memory: PixelMemory,
    ) -> Result<(u64, Option<OwnedFd>), String> {
        let request = 5;
        self.say(&FromSource::NeedPixels {
            screen,
            request,
            memory,
        });
        match self.hear_with(stage) {
            (ToSource::Pixels { region, .. }, file) => Ok((region, file)),
            (ToSource::NoPixels { message, .. }, _) => Err(message),
            other => panic!("{other:?}"),
        }
    }
}
