//! A virtual machine that was booted for the tests, by the same command that users have.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::process::Signal;

use crate::cell::Cell;
use crate::command_line;
use crate::environment::{self, report};
use crate::guest::{Guest, SCRIPT};
use crate::lines::Lines;
use crate::patience::{LATER, SOON, wait_for};
use crate::processes;
use crate::qmp::{self, Qmp};

/// Boots the machine, and ends it when standard input ends: that also happens when the tests are killed.
const KEEPER: &str =
    r#""$@" </dev/null & vm=$!; exec >&-; read -r end; kill -TERM $vm 2>/dev/null; wait $vm"#;

/// Under this number the booter and the VMM inherit the guest shell's line. It is high enough to be free.
const LINE: i32 = 90;
/// Under this number the VMM inherits one file more.
pub const FILE: i32 = 91;

/// What kind of machine to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// User-mode Linux.
    Uml,
    /// QEMU with plain `-m`, and so many processors.
    QemuPrivate(u32),
    /// QEMU with a shared memfd, and so many processors.
    QemuMemfd(u32),
    /// QEMU with a shared memfd of huge pages.
    QemuHugetlb,
    /// User-mode Linux with so many MiB of RAM.
    UmlOf(u64),
    /// QEMU as a cell of the matrix, with its monitor open.
    Qemu(Cell),
    /// User-mode Linux on the tree that has a desktop.
    UmlDesktop,
    /// QEMU with a shared memfd, on the tree that has a desktop, and with its monitor open.
    QemuDesktop,
    /// QEMU with plain `-m`, on the tree that has a desktop.
    QemuPrivateDesktop,
    /// QEMU with plain `-m`, and so much RAM that most of it lies above 4 GiB for the guest.
    QemuHigh,
}

impl Kind {
    /// What `vmshm list` calls the VMM.
    #[must_use]
    pub const fn vmm(self) -> &'static str {
        match self {
            Self::Uml | Self::UmlOf(_) | Self::UmlDesktop => "uml",
            _ => "qemu",
        }
    }

    /// How many bytes of RAM the machine gets: different numbers, so that none is taken for another.
    #[must_use]
    pub const fn ram_bytes(self) -> u64 {
        match self {
            Self::Uml => 384 << 20,
            Self::QemuPrivate(_) => 512 << 20,
            Self::QemuMemfd(_) => 640 << 20,
            Self::QemuHugetlb => 448 << 20,
            Self::UmlOf(mebibytes) => mebibytes << 20,
            Self::Qemu(cell) => cell.ram_bytes(),
            Self::UmlDesktop => 768 << 20,
            Self::QemuDesktop => 896 << 20,
            Self::QemuPrivateDesktop => 1152 << 20,
            Self::QemuHigh => 5 << 30,
        }
    }

    /// Whether the host can map its RAM.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        match self {
            Self::QemuPrivate(_) | Self::QemuHigh | Self::QemuPrivateDesktop => false,
            Self::Qemu(cell) => cell.is_shared(),
            _ => true,
        }
    }

    /// Whether its guest has the programs of a desktop.
    #[must_use]
    pub const fn has_desktop(self) -> bool {
        matches!(
            self,
            Self::UmlDesktop | Self::QemuDesktop | Self::QemuPrivateDesktop
        )
    }

    /// Whether its monitor is open anyway.
    const fn has_monitor(self) -> bool {
        matches!(self, Self::Qemu(_) | Self::QemuDesktop)
    }

    fn label(self) -> String {
        match self {
            Self::Uml => "uml".to_owned(),
            Self::QemuPrivate(processors) => format!("private{processors}"),
            Self::QemuMemfd(processors) => format!("memfd{processors}"),
            Self::QemuHugetlb => "hugetlb".to_owned(),
            Self::UmlOf(mebibytes) => format!("uml-{mebibytes}m"),
            Self::Qemu(cell) => cell.label(),
            Self::UmlDesktop => "uml-desktop".to_owned(),
            Self::QemuDesktop => "desktop".to_owned(),
            Self::QemuPrivateDesktop => "private-desktop".to_owned(),
            Self::QemuHigh => "high".to_owned(),
        }
    }

    fn options(self) -> Vec<String> {
        let mut options = vec![self.vmm().to_owned()];
        let mut option = |name: &str, value: &str| {
            options.extend([name.to_owned(), value.to_owned()]);
        };
        option("--ram", &self.ram_bytes().to_string());
        if self.has_desktop() {
            option("--system", "debian13");
        }
        let (backing, processors) = match self {
            Self::Uml | Self::UmlOf(_) | Self::UmlDesktop => return options,
            Self::Qemu(cell) => {
                for (name, value) in cell.options() {
                    option(name, value);
                }
                return options;
            }
            Self::QemuPrivate(processors) => ("private", processors),
            Self::QemuMemfd(processors) => ("memfd", processors),
            Self::QemuHugetlb => ("hugetlb", 1),
            Self::QemuDesktop => ("memfd", 2),
            Self::QemuPrivateDesktop => ("private", 2),
            Self::QemuHigh => ("private", 1),
        };
        option("--backing", backing);
        option("--smp", &processors.to_string());
        options
    }

    /// The VMM's arguments that connect the guest shell's line, and those of the matrix.
    fn vmm_arguments(self, name: &str) -> Vec<String> {
        if self.vmm() == "uml" {
            return vec![format!("ssl1=fd:{LINE}")];
        }
        let mut arguments = [
            "-chardev",
            &format!("socket,id=tests,fd={LINE}"),
            "-device",
            "virtserialport,chardev=tests,name=vm-tests",
        ]
        .map(str::to_owned)
        .to_vec();
        if self.has_monitor() {
            let socket = qmp::socket(name);
            arguments.push("-qmp".to_owned());
            arguments.push(format!("unix:{},server=on,wait=off", socket.display()));
        }
        if let Self::Qemu(cell) = self {
            arguments.extend(cell.arguments());
        }
        arguments
    }
}

/// A running machine with a shell in its guest; it is ended when this is dropped.
#[derive(Debug)]
pub struct Machine {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The VMM's process.
    pub pid: u32,
    /// The guest's shell.
    pub guest: Guest,
    keeper: Child,
    lifeline: Option<ChildStdin>,
    /// What the guest's programs have said at its start, and the booter.
    pub console: Lines,
}

impl Machine {
    /// Boots a machine with its agent running.
    ///
    /// # Panics
    /// When it does not boot.
    #[must_use]
    pub fn boot(kind: Kind) -> Self {
        Self::boot_as(kind, &kind.label(), &[])
    }

    /// Boots a machine without its agent; `vmshm-agent` is there to be started.
    ///
    /// # Panics
    /// When it does not boot.
    #[must_use]
    pub fn boot_without_agent(kind: Kind) -> Self {
        Self::boot_as(kind, &kind.label(), &["--no-agent"])
    }

    /// Boots a machine under a name of its own and with more options of `cargo xtask vm`.
    ///
    /// # Panics
    /// When it does not boot.
    #[must_use]
    pub fn boot_as(kind: Kind, label: &str, options: &[&str]) -> Self {
        Self::boot_with(kind, label, options, &[], None)
    }

    /// Boots a machine whose VMM runs as another user, with its monitor open. Only root can do that. Beside that user's
    /// rights the VMM may read all files: the checkout may lie where only root comes.
    ///
    /// # Panics
    /// When it does not boot.
    #[must_use]
    pub fn boot_of_user(kind: Kind, label: &str, options: &[&str], user: u32) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("there is room");
        let wrapper = directory.path().join("qemu-system-x86_64");
        let program = command_line::find("qemu-system-x86_64").expect("QEMU is there");
        // The directory for a file of RAM is root's.
        let text = format!(
            "#!/bin/sh\nfor word; do case \"$word\" in *,mem-path=*) \
             chown {user} \"$(dirname \"${{word##*,mem-path=}}\")\" ;; esac; done\nexec setpriv --reuid={user} --regid={user} --clear-groups \
             --inh-caps=+dac_read_search --ambient-caps=+dac_read_search '{}' \"$@\"\n",
            program.display()
        );
        std::fs::write(&wrapper, text).expect("there is room");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&wrapper, mode).expect("it is ours");
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", directory.path().display());
        let name = format!("vm-tests-{}-{label}", std::process::id());
        let socket = format!("unix:{},server=on,wait=off", qmp::socket(&name).display());
        // The last word on what a reset does is ours.
        let mut arguments = ["-action", "reboot=reset"].map(str::to_owned).to_vec();
        if !kind.has_monitor() {
            arguments.extend(["-qmp".to_owned(), socket]);
        }
        Self::boot_in(kind, label, (options, &arguments), None, &[("PATH", path)])
    }

    /// The same with more arguments for the VMM, which inherits `file` as number [`FILE`].
    ///
    /// # Panics
    /// When it does not boot.
    #[must_use]
    pub fn boot_with(
        kind: Kind,
        label: &str,
        options: &[&str],
        arguments: &[String],
        file: Option<BorrowedFd<'_>>,
    ) -> Self {
        Self::boot_in(kind, label, (options, arguments), file, &[])
    }

    /// The same with the booter's and the VMM's variables of the environment.
    ///
    /// # Panics
    /// When it does not boot.
    #[must_use]
    pub fn boot_in(
        kind: Kind,
        label: &str,
        (options, arguments): (&[&str], &[String]),
        file: Option<BorrowedFd<'_>>,
        variables: &[(&str, String)],
    ) -> Self {
        let start = Instant::now();
        let name = format!("vm-tests-{}-{label}", std::process::id());
        let (ours, theirs) = UnixStream::pair().expect("there are sockets");
        let inherited =
            rustix::io::fcntl_dupfd_cloexec(theirs.as_fd(), LINE).expect("there are descriptors");
        drop(theirs);
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let mut command = Command::new("sh");
        command
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .args(["-c", KEEPER, "sh"])
            .arg(environment::booter())
            .arg("vm")
            .args(kind.options())
            .args(["--name", &name])
            .args(options)
            .arg("--run")
            .arg(Path::new(&package).join(SCRIPT))
            .arg("--")
            .args(kind.vmm_arguments(&name))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let more = file.map(|file| {
            rustix::io::fcntl_dupfd_cloexec(file, FILE).expect("there are descriptors")
        });
        for (file, number) in [(Some(&inherited), LINE), (more.as_ref(), FILE)] {
            let Some(file) = file else { continue };
            let found = std::os::fd::AsRawFd::as_raw_fd(file);
            assert_eq!(found, number, "the number is free");
            rustix::io::fcntl_setfd(file, FdFlags::empty()).expect("the file is there");
        }
        let mut keeper = command.spawn().expect("there is a shell");
        drop((inherited, more));

        let said = Lines::collect(keeper.stdout.take().expect("it is piped"));
        let console = Lines::collect(keeper.stderr.take().expect("it is piped"));
        let mut machine = Self {
            kind,
            name,
            pid: 0,
            guest: Guest::new(ours),
            lifeline: keeper.stdin.take(),
            keeper,
            console,
        };
        wait_for("machine that is up", LATER, || {
            said.so_far().ends_with('\n') || said.has_ended()
        });
        let line = said.so_far();
        let up: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("no machine: {line}{}", machine.console.so_far()));
        assert_eq!(up["name"], machine.name.as_str());
        machine.pid = u32::try_from(up["pid"].as_u64().expect("a number")).expect("a process");
        machine.guest.wait_until_ready();
        report(&format_args!(
            "{} is up after {:.1} s",
            machine.name,
            start.elapsed().as_secs_f64()
        ));
        machine
    }

    /// What the guest's console and the booter have said.
    #[must_use]
    pub fn console(&self) -> String {
        self.console.so_far()
    }

    /// A region or pipe of this machine, as commands name it.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        processes::is_alive(self.pid)
    }

    /// Kills the VMM.
    pub fn kill(&self) {
        processes::signal(self.pid, Signal::KILL);
    }

    /// Stops the VMM's process until the value is dropped.
    #[must_use]
    pub fn pause(&self) -> Paused {
        processes::signal(self.pid, Signal::STOP);
        Paused { pid: self.pid }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("console of {}:\n{}", self.name, self.console.so_far());
            eprintln!("its threads:\n{}", processes::threads(self.pid));
            if qmp::socket(&self.name).exists() {
                let monitor = Qmp::of(&self.name);
                // It may be as broken as what made the test fail.
                let told = std::thread::spawn(move || monitor.processors()).join();
                eprintln!("its processors:\n{}", told.unwrap_or_default());
            }
        }
        drop(self.lifeline.take());
        let deadline = Instant::now() + SOON;
        while matches!(self.keeper.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Only where the booter hangs; its own guard then ends the machine.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A VMM that is stopped.
#[derive(Debug)]
pub struct Paused {
    pid: u32,
}

impl Drop for Paused {
    fn drop(&mut self) {
        if processes::is_alive(self.pid) {
            processes::signal(self.pid, Signal::CONT);
        }
    }
}
