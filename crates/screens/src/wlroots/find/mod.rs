//! Which compositors run in this guest, from /proc: processes that listen on a Wayland socket,
//! wherever it lies, and what else shows a desktop.
//!
//! Everything here is said by processes that may lie: a name is only shown, and a path is only
//! connected to with the rights of the process's own user. Processes that vanish meanwhile are
//! left out. While no socket and no process that was found has changed, a search costs a few
//! reads.

mod process;
mod sockets;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use process::{Namespaces, Process};

/// Programs that are known to lack wlr-screencopy, and what they show.
const STRANGERS: [(&str, &str); 16] = [
    ("gnome-shell", "GNOME"),
    ("mutter", "GNOME"),
    ("kwin_wayland", "KDE Plasma"),
    ("kwin_x11", "KDE Plasma"),
    ("plasmashell", "KDE Plasma"),
    ("xfwm4", "Xfce"),
    ("cinnamon", "Cinnamon"),
    ("muffin", "Cinnamon"),
    ("marco", "MATE"),
    ("lxqt-session", "LXQt"),
    ("openbox", "Openbox"),
    ("i3", "i3"),
    ("weston", "Weston"),
    ("Xorg", "Xorg"),
    ("Xvfb", "Xvfb"),
    ("Xephyr", "Xephyr"),
];
/// Servers of X11 that stand for themselves if no desktop uses them.
const X_SERVERS: [&str; 3] = ["Xorg", "Xvfb", "Xephyr"];
/// Names that are listed at most.
const OTHERS: usize = 8;
/// Of a compositor's environment, what its clients may need.
const PASSED: [&str; 3] = ["XDG_RUNTIME_DIR", "HOME", "LANG"];

/// A compositor that may be a wlroots one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its process.
    pub pid: u32,
    /// The user that it runs as.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// Its Wayland socket, as this process can reach it.
    pub socket: String,
    /// What its clients need to know: `SWAYSOCK`, `XDG_RUNTIME_DIR`, ….
    pub environment: Vec<(String, String)>,
    /// Its program's name: `sway`.
    pub name: String,
}

/// What a search saw, to know whether another would see the same.
#[derive(Debug)]
struct Search {
    listening: BTreeMap<u64, String>,
    starts: Vec<Option<u64>>,
    found: Vec<Found>,
}

/// The compositors that listen on a Wayland socket, in the order of their processes.
#[must_use]
pub fn find() -> Vec<Found> {
    static LAST: Mutex<Option<Search>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let proc = Path::new("/proc");
    let listening = sockets::listening(proc);
    if let Some(last) = last.as_ref()
        && last.listening == listening
        && starts(proc, &last.found) == last.starts
    {
        return last.found.clone();
    }
    let found = search(proc, &listening);
    *last = Some(Search {
        listening,
        starts: starts(proc, &found),
        found: found.clone(),
    });
    found
}

/// What else shows a desktop here, in words: `GNOME on Xorg`.
#[must_use]
pub fn others() -> Vec<String> {
    others_in(Path::new("/proc"))
}

fn starts(proc: &Path, found: &[Found]) -> Vec<Option<u64>> {
    found
        .iter()
        .map(|one| Process::new(proc, one.pid).started())
        .collect()
}

fn search(proc: &Path, listening: &BTreeMap<u64, String>) -> Vec<Found> {
    if listening.is_empty() {
        return Vec::new();
    }
    let own = Namespaces::of(&proc.join("self"));
    let mut found: Vec<Found> = Vec::new();
    let mut taken = Vec::new();
    for process in process::all(proc) {
        let open = process.open(listening);
        let wayland = open
            .sockets
            .iter()
            .find(|(inode, path)| !taken.contains(inode) && open.is_wayland(path));
        let Some((inode, path)) = wayland else {
            continue;
        };
        let name = process.name();
        let stranger = STRANGERS.iter().any(|(program, _)| *program == name);
        let (Some((uid, gid)), false) = (process.owner(), stranger) else {
            continue;
        };
        taken.push(*inode);
        let reach = |path: &str| process.reach(&own, path);
        let environment = process.environment();
        let value = |key: &str| environment.iter().find(|(known, _)| known == key);
        let mut passed: Vec<(String, String)> = PASSED
            .iter()
            .filter_map(|key| value(key).cloned())
            .collect();
        let named = value("SWAYSOCK").map(|(_, path)| path.as_str());
        if let Some(path) = open
            .sway_socket(named)
            .or_else(|| process.childs_sway_socket())
        {
            passed.push(("SWAYSOCK".to_owned(), reach(&path)));
        }
        found.push(Found {
            pid: process.pid,
            uid,
            gid,
            socket: reach(path),
            environment: passed,
            name,
        });
    }
    found
}

fn others_in(proc: &Path) -> Vec<String> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for process in process::all(proc) {
        let program = process.name();
        let Some((program, shown)) = STRANGERS.iter().find(|(known, _)| *known == program) else {
            continue;
        };
        let environment = process.environment();
        let session = environment
            .iter()
            .find(|(key, _)| key == "XDG_SESSION_TYPE");
        let on = match (*program, session.map(|(_, value)| value.as_str())) {
            ("kwin_wayland", _) | (_, Some("wayland")) => "Wayland",
            ("weston", _) => "Wayland",
            (server, _) if X_SERVERS.contains(&server) => "",
            _ => "Xorg",
        };
        if !names.contains(&(shown, on)) {
            names.push((shown, on));
        }
    }
    let has_desktop = names.iter().any(|(_, on)| *on == "Xorg");
    names.retain(|(shown, on)| !(on.is_empty() && has_desktop && *shown == "Xorg"));
    let in_words = |(shown, on): &(&str, &str)| match *on {
        "" => (*shown).to_owned(),
        on => format!("{shown} on {on}"),
    };
    names.iter().take(OTHERS).map(in_words).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A /proc of our own making.
    struct Fake {
        directory: tempfile::TempDir,
        sockets: String,
    }

    impl Fake {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("succeeds");
            let fake = Self {
                directory,
                sockets: "Num       RefCount Protocol Flags    Type St Inode Path\n".to_owned(),
            };
            fs::create_dir_all(fake.path("net")).expect("succeeds");
            fs::create_dir_all(fake.path("self/ns")).expect("succeeds");
            symlink("/", fake.path("self/root")).expect("succeeds");
            symlink("mnt:[1]", fake.path("self/ns/mnt")).expect("succeeds");
            fake
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.directory.path().join(name)
        }

        fn process(&self, pid: u32, name: &str, environment: &str, links: &[&str]) {
            let file = |part: &str| self.path(&format!("{pid}/{part}"));
            fs::create_dir_all(file("fd")).expect("succeeds");
            fs::create_dir_all(file("ns")).expect("succeeds");
            symlink("/", file("root")).expect("succeeds");
            symlink("mnt:[1]", file("ns/mnt")).expect("succeeds");
            symlink(format!("/usr/bin/{name}"), file("exe")).expect("succeeds");
            let status =
                format!("Name:\t{name}\nPPid:\t1\nUid:\t1000\t1001\t0\t0\nGid:\t5\t6\t7\t8\n");
            fs::write(file("status"), status).expect("succeeds");
            fs::write(file("environ"), environment.replace(' ', "\0")).expect("succeeds");
            for (index, link) in links.iter().enumerate() {
                symlink(link, file(&format!("fd/{index}"))).expect("succeeds");
            }
        }

        fn listens(&mut self, inode: u64, path: &str) {
            writeln!(
                self.sockets,
                "0000000000000000: 00000002 00000000 00010000 0001 01 {inode} {path}"
            )
            .expect("succeeds");
            fs::write(self.path("net/unix"), &self.sockets).expect("succeeds");
        }

        fn find(&self) -> Vec<Found> {
            let proc = self.directory.path();
            search(proc, &sockets::listening(proc))
        }
    }

    #[test]
    fn sway_is_found_with_its_sockets_and_its_user() {
        let mut fake = Fake::new();
        fake.listens(77, "/home/me/run time/wayland-1");
        fake.listens(78, "/home/me/run time/sway-ipc.1001.40.sock");
        fake.process(
            40,
            "sway",
            "HOME=/home/me XDG_RUNTIME_DIR=/run/user/1001 SECRET=x",
            &["/dev/null", "socket:[77]", "socket:[78]", "pipe:[3]"],
        );
        fake.process(41, "foot", "SWAYSOCK=/wrong", &["socket:[1]"]);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            fake.find(),
            [Found {
                pid: 40,
                uid: 1001,
                gid: 6,
                socket: "/home/me/run time/wayland-1".to_owned(),
                environment: vec![
                    pair("XDG_RUNTIME_DIR", "/run/user/1001"),
                    pair("HOME", "/home/me"),
                    pair("SWAYSOCK", "/home/me/run time/sway-ipc.1001.40.sock"),
                ],
                name: "sway".to_owned(),
            }]
        );
    }

    #[test]
    fn a_socket_of_any_name_counts_with_its_lock() {
        let mut fake = Fake::new();
        fake.listens(5, "/tmp/desk");
        fake.listens(6, "/tmp/other");
        fake.process(9, "labwc", "", &["socket:[5]", "/tmp/desk.lock"]);
        fake.process(10, "cupsd", "", &["socket:[6]"]);
        let found = fake.find();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pid, found[0].socket.as_str()), (9, "/tmp/desk"));
        assert_eq!(found[0].environment, []);
    }

    #[test]
    fn paths_of_other_mount_namespaces_go_through_the_process() {
        let mut fake = Fake::new();
        fake.listens(5, "/run/wayland-0");
        fake.process(9, "sway", "", &["socket:[5]"]);
        fs::remove_file(fake.path("9/ns/mnt")).expect("succeeds");
        symlink("mnt:[2]", fake.path("9/ns/mnt")).expect("succeeds");
        assert_eq!(fake.find()[0].socket, "/proc/9/root/run/wayland-0");
    }

    #[test]
    fn an_inherited_socket_counts_once_and_a_stranger_not_at_all() {
        let mut fake = Fake::new();
        fake.listens(5, "/run/wayland-0");
        fake.listens(6, "/run/wayland-1");
        fake.process(9, "sway", "", &["socket:[5]"]);
        fake.process(10, "swaybg", "", &["socket:[5]"]);
        fake.process(
            11,
            "gnome-shell",
            "XDG_SESSION_TYPE=wayland",
            &["socket:[6]"],
        );
        assert_eq!(fake.find().len(), 1);
        assert_eq!(others_in(fake.directory.path()), ["GNOME on Wayland"]);
    }

    #[test]
    fn other_desktops_are_told_in_words() {
        let fake = Fake::new();
        fake.process(5, "Xorg", "", &[]);
        assert_eq!(others_in(fake.directory.path()), ["Xorg"]);
        fake.process(9, "gnome-shell", "XDG_SESSION_TYPE=x11", &[]);
        fake.process(11, "gnome-shell", "XDG_SESSION_TYPE=x11", &[]);
        assert_eq!(others_in(fake.directory.path()), ["GNOME on Xorg"]);
    }

    #[test]
    fn odd_and_vanished_processes_are_left_out() {
        let mut fake = Fake::new();
        fake.listens(5, "/run/wayland-0");
        fs::create_dir_all(fake.path("12")).expect("succeeds");
        fs::create_dir_all(fake.path("13/fd")).expect("succeeds");
        symlink("socket:[5]", fake.path("13/fd/3")).expect("succeeds");
        fs::write(fake.path("14"), "no directory").expect("succeeds");
        fake.process(15, "a\u{1b}[2J; b", "", &["socket:[5]", "socket:[x]"]);
        let found = fake.find();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "a??2J??b");
    }
}
