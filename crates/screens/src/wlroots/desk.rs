//! What the compositor says, as it says it: which globals, outputs and heads there are, how
//! captures go, and how configurations went. Decisions are made elsewhere.

use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_output::{self, WlOutput};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::protocol::wl_shm::WlShm;
use wayland_client::protocol::wl_shm_pool::WlShmPool;
use wayland_client::{
    Connection, Dispatch, Proxy, QueueHandle, WEnum, delegate_noop, event_created_child,
};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_configuration_head_v1::ZwlrOutputConfigurationHeadV1;
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_configuration_v1::{
    self, ZwlrOutputConfigurationV1,
};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_head_v1::{
    self, ZwlrOutputHeadV1,
};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_manager_v1::{
    self, ZwlrOutputManagerV1,
};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_mode_v1::{
    self, ZwlrOutputModeV1,
};
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_frame_v1::{
    self, ZwlrScreencopyFrameV1,
};
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_manager_v1::ZwlrVirtualPointerManagerV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_v1::ZwlrVirtualPointerV1;

use super::capture::{FrameEvent, Tag};
use super::outputs::{Head, HeadMode, NOTHING, Output, note_mode, size, tidy_name};

/// The most outputs, heads, and modes of a head that are looked at.
const LIMIT: usize = 256;

/// How a configuration went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in use.
    Succeeded,
    /// It cannot be.
    Failed,
    /// Something else has changed meanwhile.
    Cancelled,
}

/// All that the compositor has said.
#[derive(Debug, Default)]
pub struct Desk {
    /// Shared memory.
    pub shm: Option<WlShm>,
    /// The first seat.
    pub seat: Option<WlSeat>,
    /// Captures.
    pub screencopy: Option<ZwlrScreencopyManagerV1>,
    /// Arranging outputs.
    pub manager: Option<ZwlrOutputManagerV1>,
    /// Pointers.
    pub pointers: Option<ZwlrVirtualPointerManagerV1>,
    /// Whether it takes keyboards.
    pub keyboards: bool,
    /// Outputs, in the order of their appearance.
    pub outputs: Vec<Output>,
    /// Heads.
    pub heads: Vec<Head>,
    /// What configurations count from.
    pub serial: Option<u32>,
    /// Round trips that have come back.
    pub syncs: u64,
    /// What captures said, not looked at yet.
    pub frames: Vec<(Tag, FrameEvent)>,
    /// How configurations went, by their numbers, not looked at yet.
    pub outcomes: Vec<(u64, Outcome)>,
    /// Screens whose outputs have gone, not looked at yet.
    pub gone: Vec<u64>,
    last_screen: u64,
}

impl Desk {
    /// The output that makes a screen.
    pub fn output(&self, screen: u64) -> Option<&Output> {
        self.outputs.iter().find(|output| output.screen == screen)
    }

    /// The output of this name.
    pub fn output_named(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|output| output.name == name)
    }

    fn output_of(&mut self, proxy: &WlOutput) -> Option<&mut Output> {
        self.outputs
            .iter_mut()
            .find(|output| output.proxy == *proxy)
    }

    fn head_of(&mut self, proxy: &ZwlrOutputHeadV1) -> Option<&mut Head> {
        self.heads.iter_mut().find(|head| head.proxy == *proxy)
    }

    fn bind(
        &mut self,
        registry: &WlRegistry,
        name: u32,
        interface: &str,
        version: u32,
        handle: &QueueHandle<Self>,
    ) {
        let is = |wanted: &str| interface == wanted;
        if is(WlShm::interface().name) && self.shm.is_none() {
            self.shm = Some(registry.bind(name, 1, handle, ()));
        } else if is(WlSeat::interface().name) && self.seat.is_none() {
            self.seat = Some(registry.bind(name, 1, handle, ()));
        } else if is(ZwlrScreencopyManagerV1::interface().name) && version >= 2 {
            self.screencopy = Some(registry.bind(name, version.min(3), handle, ()));
        } else if is(ZwlrOutputManagerV1::interface().name) && self.manager.is_none() {
            self.manager = Some(registry.bind(name, version.min(4), handle, ()));
        } else if is(ZwlrVirtualPointerManagerV1::interface().name) && version >= 2 {
            self.pointers = Some(registry.bind(name, 2, handle, ()));
        } else if is("zwp_virtual_keyboard_manager_v1") {
            self.keyboards = true;
        } else if is(WlOutput::interface().name) && version >= 4 && self.outputs.len() < LIMIT {
            self.last_screen += 1;
            let proxy = registry.bind(name, 4, handle, ());
            self.outputs
                .push(Output::new(self.last_screen, name, proxy));
        }
    }

    fn remove(&mut self, name: u32) {
        let gone = &mut self.gone;
        self.outputs.retain(|output| {
            let stays = output.global != name;
            if !stays {
                gone.push(output.screen);
                output.proxy.release();
            }
            stays
        });
    }
}

impl Dispatch<WlRegistry, ()> for Desk {
    fn event(
        desk: &mut Self,
        registry: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<Self>,
    ) {
        match event {
            wl_registry::Event::Global {
                name,
                interface,
                version,
            } => desk.bind(registry, name, &interface, version, handle),
            wl_registry::Event::GlobalRemove { name } => desk.remove(name),
            _ => {}
        }
    }
}

impl Dispatch<WlCallback, ()> for Desk {
    fn event(
        desk: &mut Self,
        _: &WlCallback,
        event: wl_callback::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_callback::Event::Done { .. } = event {
            desk.syncs += 1;
        }
    }
}

impl Dispatch<WlOutput, ()> for Desk {
    fn event(
        desk: &mut Self,
        proxy: &WlOutput,
        event: wl_output::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let Some(output) = desk.output_of(proxy) else {
            return;
        };
        match event {
            wl_output::Event::Geometry { transform, .. } => {
                output.set_transform(transform.into_result().ok());
            }
            wl_output::Event::Mode {
                flags,
                width,
                height,
                refresh,
            } => {
                let Some(mode) = size(width, height, refresh) else {
                    return;
                };
                let current = matches!(flags, WEnum::Value(flags) if flags.contains(wl_output::Mode::Current));
                if current {
                    output.mode = mode;
                } else {
                    note_mode(&mut output.modes, mode);
                }
            }
            wl_output::Event::Scale { factor } => {
                output.scale_thousandths = u64::try_from(factor.clamp(1, 64)).unwrap_or(1) * 1000;
            }
            wl_output::Event::Name { name } => output.name = tidy_name(&name),
            wl_output::Event::Done => output.told = true,
            _ => {}
        }
    }
}

impl Dispatch<ZwlrOutputManagerV1, ()> for Desk {
    fn event(
        desk: &mut Self,
        _: &ZwlrOutputManagerV1,
        event: zwlr_output_manager_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            zwlr_output_manager_v1::Event::Head { head } if desk.heads.len() < LIMIT => {
                desk.heads.push(Head {
                    proxy: head,
                    name: String::new(),
                    enabled: false,
                    scale_thousandths: 0,
                    modes: Vec::new(),
                });
            }
            zwlr_output_manager_v1::Event::Done { serial } => desk.serial = Some(serial),
            zwlr_output_manager_v1::Event::Finished => {
                desk.manager = None;
                desk.heads.clear();
            }
            _ => {}
        }
    }

    event_created_child!(Self, ZwlrOutputManagerV1, [
        zwlr_output_manager_v1::EVT_HEAD_OPCODE => (ZwlrOutputHeadV1, ()),
    ]);
}

impl Dispatch<ZwlrOutputHeadV1, ()> for Desk {
    fn event(
        desk: &mut Self,
        proxy: &ZwlrOutputHeadV1,
        event: zwlr_output_head_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let zwlr_output_head_v1::Event::Finished = event {
            desk.heads.retain(|head| head.proxy != *proxy);
            if proxy.version() >= 3 {
                proxy.release();
            }
            return;
        }
        let Some(head) = desk.head_of(proxy) else {
            return;
        };
        match event {
            zwlr_output_head_v1::Event::Name { name } => head.name = tidy_name(&name),
            zwlr_output_head_v1::Event::Enabled { enabled } => head.enabled = enabled != 0,
            zwlr_output_head_v1::Event::Scale { scale } => {
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "clamped to small positive numbers"
                )]
                let thousandths = (scale.clamp(0.0, 64.0) * 1000.0).round() as u64;
                head.scale_thousandths = thousandths;
            }
            zwlr_output_head_v1::Event::Mode { mode } if head.modes.len() < LIMIT => {
                head.modes.push(HeadMode {
                    proxy: mode,
                    size: NOTHING,
                });
            }
            _ => {}
        }
    }

    event_created_child!(Self, ZwlrOutputHeadV1, [
        zwlr_output_head_v1::EVT_MODE_OPCODE => (ZwlrOutputModeV1, ()),
    ]);
}

impl Dispatch<ZwlrOutputModeV1, ()> for Desk {
    fn event(
        desk: &mut Self,
        proxy: &ZwlrOutputModeV1,
        event: zwlr_output_mode_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let zwlr_output_mode_v1::Event::Finished = event {
            for head in &mut desk.heads {
                head.modes.retain(|mode| mode.proxy != *proxy);
            }
            if proxy.version() >= 3 {
                proxy.release();
            }
            return;
        }
        let modes = desk.heads.iter_mut().flat_map(|head| &mut head.modes);
        let Some(mode) = modes.into_iter().find(|mode| mode.proxy == *proxy) else {
            return;
        };
        match event {
            zwlr_output_mode_v1::Event::Size { width, height } => {
                mode.size = size(width, height, 0).unwrap_or(NOTHING);
            }
            zwlr_output_mode_v1::Event::Refresh { refresh } if mode.size != NOTHING => {
                mode.size.refresh_millihertz = u32::try_from(refresh).unwrap_or(0);
            }
            _ => {}
        }
    }
}

impl Dispatch<ZwlrOutputConfigurationV1, u64> for Desk {
    fn event(
        desk: &mut Self,
        _: &ZwlrOutputConfigurationV1,
        event: zwlr_output_configuration_v1::Event,
        number: &u64,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let outcome = match event {
            zwlr_output_configuration_v1::Event::Succeeded => Outcome::Succeeded,
            zwlr_output_configuration_v1::Event::Cancelled => Outcome::Cancelled,
            _ => Outcome::Failed,
        };
        desk.outcomes.push((*number, outcome));
    }
}

impl Dispatch<ZwlrScreencopyFrameV1, Tag> for Desk {
    fn event(
        desk: &mut Self,
        _: &ZwlrScreencopyFrameV1,
        event: zwlr_screencopy_frame_v1::Event,
        tag: &Tag,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let Some(event) = FrameEvent::new(event) {
            desk.frames.push((*tag, event));
        }
    }
}

delegate_noop!(Desk: ignore WlShm);
delegate_noop!(Desk: ignore WlShmPool);
delegate_noop!(Desk: ignore WlBuffer);
delegate_noop!(Desk: ignore WlSeat);
delegate_noop!(Desk: ignore ZwlrScreencopyManagerV1);
delegate_noop!(Desk: ignore ZwlrVirtualPointerManagerV1);
delegate_noop!(Desk: ignore ZwlrVirtualPointerV1);
delegate_noop!(Desk: ignore ZwlrOutputConfigurationHeadV1);
