//! A desktop in a guest: sway, started as an ordinary user on a headless output, with terminals.
//!
//! Only guests with the Debian 13 tree have one.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::environment::report;
use crate::guest::{Answer, Job};
use crate::machine::Machine;
use crate::patience::{LATER, wait_for};
use crate::png_file::Picture;

/// The desktop's user.
const USER: &str = "tester";
/// Its number.
const UID: u32 = 1000;

/// What sway is told: nothing that changes by itself, and no keyboard shortcut that a test could hit.
const CONFIG: &str = "\
output * bg #203040 solid_color
default_border none
focus_follows_mouse no
seat * hide_cursor 0
exec foot --config=$HOME/foot.ini --app-id=first
";
const TERMINAL: &str = "\
font=DejaVu Sans Mono:size=11
[cursor]
blink=no
";

/// A sway that runs in a guest.
#[derive(Debug)]
pub struct Desktop<'m> {
    machine: &'m Machine,
    runtime: String,
    job: Option<Job<'m>>,
}

impl<'m> Desktop<'m> {
    /// Starts a desktop whose sockets lie below `runtime`, and waits until it has its terminal.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(machine: &'m Machine, runtime: &str) -> Self {
        let home = format!("/home/{USER}");
        machine.guest.check(&format!(
            "id {USER} >/dev/null 2>&1 || useradd --uid {UID} --create-home {USER}\n\
             mkdir -p {runtime} && chown {USER} {runtime} && chmod 700 {runtime}\n\
             cat >{home}/sway.conf <<'END'\n{CONFIG}END\n\
             cat >{home}/foot.ini <<'END'\n{TERMINAL}END\n"
        ));
        let mut desktop = Self {
            machine,
            runtime: runtime.to_owned(),
            job: None,
        };
        desktop.start_again();
        desktop
    }

    /// Starts sway, also after it was killed.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_again(&mut self) {
        let command = self.as_user(
            "WLR_BACKENDS=headless WLR_RENDERER=pixman WLR_LIBINPUT_NO_DEVICES=1 exec sway --config $HOME/sway.conf",
        );
        self.job = Some(self.machine.guest.start(&command));
        wait_for("a desktop with a terminal", LATER, || {
            self.has_window("first")
        });
        report(&format_args!("{}: sway is up", self.machine.name));
    }

    /// A command line that runs `command` as the desktop's user.
    fn as_user(&self, command: &str) -> String {
        format!(
            "exec setpriv --reuid {UID} --regid {UID} --clear-groups env -i HOME=/home/{USER} SHELL=/bin/sh LANG=C.UTF-8 \
             PATH=/usr/local/bin:/usr/bin:/bin XDG_RUNTIME_DIR={} sh -c {}",
            self.runtime,
            quoted(command)
        )
    }

    /// The newest sockets: those of a sway that was killed stay.
    fn wayland(&self) -> String {
        let runtime = &self.runtime;
        format!("WAYLAND_DISPLAY=$(basename $(ls -t {runtime}/wayland-? | head -n 1))")
    }

    fn message(&self, arguments: &str) -> String {
        format!(
            "SWAYSOCK=$(ls -t {}/sway-ipc.*.sock 2>/dev/null | head -n 1) swaymsg {arguments}",
            self.runtime
        )
    }

    fn try_in(&self, command: &str) -> Answer {
        self.machine
            .guest
            .run(&format!("({})", self.as_user(command)))
    }

    /// Runs a client of the desktop, which must succeed.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn check(&self, command: &str) -> String {
        let display = format!("{} {command}", self.wayland());
        let answer = self.try_in(&display);
        assert_eq!(answer.status, 0, "{command}: {}", answer.text);
        answer.text
    }

    /// Starts a client of the desktop and leaves it running.
    #[must_use]
    pub fn client(&self, command: &str) -> Job<'m> {
        let display = format!("{} {command}", self.wayland());
        self.machine.guest.start(&self.as_user(&display))
    }

    /// Gives sway a command.
    ///
    /// # Panics
    /// When it refuses.
    pub fn command(&self, command: &str) {
        let said = self.try_in(&self.message(&quoted(command)));
        assert_eq!(said.status, 0, "{command}: {}", said.text);
    }

    /// Whether there is a window of this application.
    #[must_use]
    pub fn has_window(&self, id: &str) -> bool {
        let tree = self.try_in(&self.message("-t get_tree"));
        tree.text.contains(&format!("\"{id}\""))
    }

    /// Sway's outputs, as it tells them.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn outputs(&self) -> Vec<serde_json::Value> {
        let said = self.try_in(&self.message("--raw -t get_outputs"));
        serde_json::from_str(&said.text)
            .unwrap_or_else(|error| panic!("no outputs: {error}: {}", said.text))
    }

    /// The names of the outputs.
    #[must_use]
    pub fn output_names(&self) -> Vec<String> {
        let name = |output: &serde_json::Value| output["name"].as_str().map(str::to_owned);
        self.outputs().iter().filter_map(name).collect()
    }

    /// Opens a terminal on an output, which runs `command`.
    ///
    /// # Panics
    /// When none comes.
    pub fn terminal(&self, output: &str, id: &str, command: &str) {
        self.command(&format!("focus output {output}"));
        let line = format!("foot --config=/home/{USER}/foot.ini --app-id={id} {command}");
        self.command(&format!("exec {line}"));
        wait_for("a terminal", LATER, || self.has_window(id));
    }

    /// Whether an output looks exactly like `picture`, to a program of the guest.
    ///
    /// # Panics
    /// When that program fails.
    #[must_use]
    pub fn looks_like(&self, output: &str, picture: &Picture) -> bool {
        let said = self.check(&format!("grim -t ppm -o {output} - | sha256sum"));
        let mut digest = String::new();
        for byte in Sha256::digest(picture.to_ppm()) {
            let _ = write!(digest, "{byte:02x}");
        }
        said.starts_with(&digest)
    }

    /// The process of sway.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let said = self.machine.guest.check("pgrep -x sway");
        said.trim().parse().expect("one sway runs")
    }
}

/// One word for the shell.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
