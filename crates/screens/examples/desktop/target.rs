//! A window that covers an output and says where it is clicked, as a process of its own.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use wayland_client::protocol::{
    wl_buffer, wl_compositor, wl_output, wl_pointer, wl_registry, wl_seat, wl_shm, wl_shm_pool,
    wl_surface,
};
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, WEnum, delegate_noop};
use wayland_protocols_wlr::layer_shell::v1::client::zwlr_layer_shell_v1::{
    Layer, ZwlrLayerShellV1,
};
use wayland_protocols_wlr::layer_shell::v1::client::zwlr_layer_surface_v1::{
    self, Anchor, ZwlrLayerSurfaceV1,
};

use super::agent::Agent;

pub struct Target {
    child: Child,
    lines: Receiver<String>,
}

impl Target {
    pub fn start(socket: &str, output: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["target", socket, output])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let reader = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        assert_eq!(lines.recv().unwrap(), "shown");
        Self { child, lines }
    }

    pub fn next(&mut self, agent: &mut Agent, kind: &str) -> String {
        agent.until(kind, |_| {
            let line = self.lines.recv_timeout(Duration::from_millis(5)).ok()?;
            line.strip_prefix(kind).map(|rest| rest.trim().to_owned())
        })
    }

    pub fn end(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[derive(Default)]
struct Window {
    compositor: Option<wl_compositor::WlCompositor>,
    shm: Option<wl_shm::WlShm>,
    shell: Option<ZwlrLayerShellV1>,
    seat: Option<wl_seat::WlSeat>,
    pointer: Option<wl_pointer::WlPointer>,
    outputs: Vec<(wl_output::WlOutput, String)>,
    surface: Option<wl_surface::WlSurface>,
    at: (f64, f64),
    shown: bool,
}

pub fn run(socket: &str, output: &str) {
    let connection = Connection::from_socket(UnixStream::connect(socket).unwrap()).unwrap();
    let mut queue = connection.new_event_queue();
    let handle = queue.handle();
    connection.display().get_registry(&handle, ());
    let mut window = Window::default();
    queue.roundtrip(&mut window).unwrap();
    queue.roundtrip(&mut window).unwrap();
    let surface = window
        .compositor
        .as_ref()
        .unwrap()
        .create_surface(&handle, ());
    let (on, _) = window
        .outputs
        .iter()
        .find(|(_, name)| name == output)
        .unwrap();
    let shell = window.shell.as_ref().unwrap();
    let layer = shell.get_layer_surface(
        &surface,
        Some(on),
        Layer::Overlay,
        "target".to_owned(),
        &handle,
        (),
    );
    layer.set_anchor(Anchor::all());
    layer.set_exclusive_zone(-1);
    surface.commit();
    window.surface = Some(surface);
    while queue.blocking_dispatch(&mut window).is_ok() {}
}

impl Dispatch<wl_registry::WlRegistry, ()> for Window {
    fn event(
        window: &mut Self,
        registry: &wl_registry::WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<Self>,
    ) {
        let wl_registry::Event::Global {
            name, interface, ..
        } = event
        else {
            return;
        };
        if interface == wl_compositor::WlCompositor::interface().name {
            window.compositor = Some(registry.bind(name, 4, handle, ()));
        } else if interface == wl_shm::WlShm::interface().name {
            window.shm = Some(registry.bind(name, 1, handle, ()));
        } else if interface == ZwlrLayerShellV1::interface().name {
            window.shell = Some(registry.bind(name, 1, handle, ()));
        } else if interface == wl_seat::WlSeat::interface().name {
            window.seat = Some(registry.bind(name, 5, handle, ()));
        } else if interface == wl_output::WlOutput::interface().name {
            window
                .outputs
                .push((registry.bind(name, 4, handle, ()), String::new()));
        }
    }
}

impl Dispatch<wl_output::WlOutput, ()> for Window {
    fn event(
        window: &mut Self,
        output: &wl_output::WlOutput,
        event: wl_output::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_output::Event::Name { name } = event {
            let known = window.outputs.iter_mut().find(|(known, _)| known == output);
            known.unwrap().1 = name;
        }
    }
}

impl Dispatch<wl_seat::WlSeat, ()> for Window {
    fn event(
        window: &mut Self,
        seat: &wl_seat::WlSeat,
        event: wl_seat::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<Self>,
    ) {
        if let wl_seat::Event::Capabilities {
            capabilities: WEnum::Value(able),
        } = event
            && able.contains(wl_seat::Capability::Pointer)
            && window.pointer.is_none()
        {
            window.pointer = Some(seat.get_pointer(handle, ()));
        }
    }
}

impl Dispatch<wl_pointer::WlPointer, ()> for Window {
    fn event(
        window: &mut Self,
        _: &wl_pointer::WlPointer,
        event: wl_pointer::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            wl_pointer::Event::Enter {
                surface_x,
                surface_y,
                ..
            } => window.at = (surface_x, surface_y),
            wl_pointer::Event::Motion {
                surface_x,
                surface_y,
                ..
            } => {
                let before = std::mem::replace(&mut window.at, (surface_x, surface_y));
                println!("motion {} {}", surface_x - before.0, surface_y - before.1);
            }
            wl_pointer::Event::Button {
                state: WEnum::Value(wl_pointer::ButtonState::Pressed),
                ..
            } => {
                println!("press {} {}", window.at.0, window.at.1);
            }
            wl_pointer::Event::AxisDiscrete { discrete, .. } => println!("discrete {discrete}"),
            wl_pointer::Event::Axis { value, .. } => println!("axis {value}"),
            _ => {}
        }
    }
}

impl Dispatch<ZwlrLayerSurfaceV1, ()> for Window {
    fn event(
        window: &mut Self,
        layer: &ZwlrLayerSurfaceV1,
        event: zwlr_layer_surface_v1::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<Self>,
    ) {
        let zwlr_layer_surface_v1::Event::Configure {
            serial,
            width,
            height,
        } = event
        else {
            return;
        };
        layer.ack_configure(serial);
        let size = width * height * 4;
        let file = rustix::fs::memfd_create("target", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, u64::from(size.next_multiple_of(4096))).unwrap();
        let (width, height) = (width as i32, height as i32);
        let pool = window.shm.as_ref().unwrap().create_pool(
            file.as_fd(),
            size.next_multiple_of(4096) as i32,
            handle,
            (),
        );
        let buffer = pool.create_buffer(
            0,
            width,
            height,
            4 * width,
            wl_shm::Format::Xrgb8888,
            handle,
            (),
        );
        let surface = window.surface.as_ref().unwrap();
        surface.attach(Some(&buffer), 0, 0);
        surface.damage_buffer(0, 0, width, height);
        surface.commit();
        if !std::mem::replace(&mut window.shown, true) {
            println!("shown");
        }
    }
}

delegate_noop!(Window: ignore wl_compositor::WlCompositor);
delegate_noop!(Window: ignore wl_shm::WlShm);
delegate_noop!(Window: ignore wl_shm_pool::WlShmPool);
delegate_noop!(Window: ignore wl_buffer::WlBuffer);
delegate_noop!(Window: ignore wl_surface::WlSurface);
delegate_noop!(Window: ignore ZwlrLayerShellV1);
