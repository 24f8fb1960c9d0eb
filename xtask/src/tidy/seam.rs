//! The rule about operating systems: in the rooms that run on more than one, what belongs to one system stands in
//! directories `os/`, behind names that every system provides. Outside of them, and of tests, nothing names a system's
//! crates or files, and what exists on one system alone is a whole module or a name, not a piece of a function.

use super::Finding;
use super::source::Source;

/// The rooms that run on several systems.
const ROOMS: [&str; 9] = [
    "shm", "link", "channel", "pipe", "endpoint", "ram", "host", "cli", "monitor",
];

/// Crates that exist for one system, or that speak its interfaces.
const CRATES: [&str; 10] = [
    "rustix",
    "nix",
    "libc",
    "windows_sys",
    "signal_hook",
    "seccompiler",
    "landlock",
    "x11rb",
    "xkbcommon_dl",
    "wayland_client",
];

/// Modules of a system: those of `std::os`, and those of a room's own `os`, which others use through `os` itself.
const MODULES: [&str; 5] = ["fd", "unix", "linux", "windows", "raw"];

/// What tells systems apart in a condition.
const SYSTEMS: [&str; 4] = ["target_os", "target_family", "unix", "windows"];

/// Looks at each word and each text of a file.
pub fn check(source: &Source) -> Vec<Finding> {
    let in_room = source
        .crate_name()
        .is_some_and(|room| ROOMS.contains(&room));
    let directories = source.file.rsplit_once('/').map_or("", |(path, _)| path);
    if !in_room || directories.split('/').any(|name| name == "os") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut add = |line: usize, what: String| {
        let message = format!("{what} belongs into a directory os/; see ARCHITECTURE.md");
        findings.push(Finding::new(&source.file, line, message));
    };
    for (position, token) in source.tokens.iter().enumerate() {
        if token.test {
            continue;
        }
        if let Some(path) = path_of_system(source, position) {
            add(token.line, path);
        }
        if let Some(condition) = condition_of_system(source, position) {
            add(token.line, condition);
        }
    }
    for literal in source.literals.iter().filter(|literal| !literal.test) {
        let text = literal.text.split_once('"').map_or("", |(_, text)| text);
        if text.starts_with("/proc/") || text.starts_with("/proc\"") {
            add(literal.line, "a path in /proc".to_owned());
        }
    }
    findings
}

/// The system's path that starts at `position`.
fn path_of_system(source: &Source, position: usize) -> Option<String> {
    let word = &*source.tokens.get(position)?.text;
    let goes_on = source.reads(position + 1, &[":", ":"]);
    if CRATES.contains(&word) {
        let is_used = goes_on || matches!(source.before(position), "use" | "crate");
        return is_used.then(|| word.to_owned());
    }
    if word == "os" && goes_on {
        let next = &*source.tokens.get(position + 3)?.text;
        return MODULES.contains(&next).then(|| format!("os::{next}"));
    }
    None
}

/// The condition about the system that starts at `position`, unless it stands on a `mod`, a `use` or an `extern crate`.
fn condition_of_system(source: &Source, position: usize) -> Option<String> {
    let word = &*source.tokens.get(position)?.text;
    let is_macro = source.reads(position, &["cfg", "!", "("]);
    let is_attribute = source.before(position) == "["
        && (source.reads(position, &["cfg", "("]) || source.reads(position, &["cfg_attr", "("]));
    if !is_macro && !is_attribute {
        return None;
    }
    let open = position + if is_macro { 2 } else { 1 };
    let end = closing(source, open)?;
    let inside = source.tokens.get(open..end)?;
    let system = inside
        .iter()
        .find(|token| SYSTEMS.contains(&&*token.text))?;
    // The group of an attribute closes right behind its parentheses.
    let stands_on_item = is_attribute
        && source.tokens.get(position.checked_sub(2)?)?.text == "#"
        && is_module_or_use(source, end + 2);
    (!stands_on_item).then(|| format!("{word} of {}, on no mod or use,", system.text))
}

/// Whether an item that begins at `position`, with attributes and visibility, is a module or names one.
fn is_module_or_use(source: &Source, mut position: usize) -> bool {
    while source.reads(position, &["#", "["]) {
        let Some(end) = closing(source, position + 1) else {
            return false;
        };
        position = end + 1;
    }
    if source.reads(position, &["pub"]) {
        position += 1;
        if source.reads(position, &["("]) {
            position = closing(source, position).map_or(position, |end| end + 1);
        }
    }
    let items: [&[&str]; 3] = [&["mod"], &["use"], &["extern", "crate"]];
    items.into_iter().any(|item| source.reads(position, item))
}

/// Where the group that opens at `position` closes.
fn closing(source: &Source, position: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in source.tokens.iter().enumerate().skip(position) {
        match &*token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(index);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::tests::source;

    fn lines(file: &str, text: &str) -> Vec<usize> {
        let findings = check(&source(file, text));
        findings.iter().map(|finding| finding.line).collect()
    }

    const OUTSIDE: &str = "crates/host/src/a.rs";

    #[test]
    fn crates_and_modules_of_a_system_are_found() {
        for bad in [
            "use rustix::fs::flock;",
            "use rustix;",
            "extern crate libc;",
            "fn a() { ::libc::getpid(); }",
            "use std::os::fd::AsFd;",
            "use std::{io, os::unix::fs::MetadataExt};",
            "fn a() { std::os::windows::io::b() }",
            "use crate::os::linux::Process;",
            "use windows_sys::Win32::Foundation::HANDLE;",
        ] {
            assert_eq!(lines(OUTSIDE, bad), [1], "{bad}");
            assert_eq!(lines("crates/host/src/os/linux/a.rs", bad), [0; 0], "{bad}");
            assert_eq!(lines("crates/host/tests/a.rs", bad), [0; 0], "{bad}");
            assert_eq!(lines("crates/agent/src/a.rs", bad), [0; 0], "{bad}");
            let test = format!("#[cfg(test)]\nmod tests {{ {bad} }}");
            assert_eq!(lines(OUTSIDE, &test), [0; 0], "{bad}");
        }
        for good in [
            "use crate::os::{self, Process};",
            "fn a() { os::wait(); let nix = 1; }",
            "// rustix::fs\nfn a() { b(\"libc::c\") }",
        ] {
            assert_eq!(lines(OUTSIDE, good), [0; 0], "{good}");
        }
        // A file is no directory.
        assert_eq!(lines("crates/host/src/os.rs", "use libc::c_int;"), [1]);
    }

    #[test]
    fn paths_in_proc_are_found_and_words_about_it_are_not() {
        for bad in [
            "\"/proc\"",
            "\"/proc/self/maps\"",
            "format!(\"/proc/{pid}\")",
            "b\"/proc/1\"",
            "r#\"/proc/1\"#",
        ] {
            let text = format!("fn a() {{\n    b({bad});\n}}");
            assert_eq!(lines(OUTSIDE, &text), [2], "{bad}");
        }
        for good in ["\"/process\"", "\"see /proc/1\"", "\"/proc hides it\""] {
            let text = format!("///\"/proc/1\"\nfn a() {{ b({good}) }}");
            assert_eq!(lines(OUTSIDE, &text), [0; 0], "{good}");
        }
    }

    #[test]
    fn a_condition_about_the_system_stands_on_modules_and_names_only() {
        for bad in [
            "#[cfg(unix)]\nfn a() {}",
            "#[cfg(target_os = \"linux\")]\n#[inline]\npub fn a() {}",
            "#[cfg(all(feature = \"x\", not(windows)))]\npub(crate) struct A;",
            "#![cfg(windows)]\nmod a;",
            "#[cfg_attr(windows, expect(dead_code))]\nfn a() {}",
            "fn a() -> bool { cfg!(target_family = \"unix\") }",
            "struct A { #[cfg(unix)] b: u8 }",
        ] {
            assert_eq!(lines(OUTSIDE, bad), [1], "{bad}");
            assert_eq!(lines("crates/shm/src/os/mod.rs", bad), [0; 0], "{bad}");
            let test = format!("#[cfg(test)]\nmod tests {{ {} }}", bad.replace("#!", "#"));
            assert_eq!(lines(OUTSIDE, &test), [0; 0], "{bad}");
        }
        for good in [
            "#[cfg(unix)]\nmod a;",
            "#[cfg(windows)]\n#[allow(unused)]\npub(crate) mod a { }",
            "#[cfg(target_os = \"linux\")]\npub use crate::os::A;",
            "#[cfg(windows)]\nextern crate std;",
            "#[cfg(feature = \"windows\")]\nfn a() {}",
            "#[cfg(all(test, unix))]\nfn a() {}",
            "#[cfg(unix)]\n#[cfg(test)]\nmod tests {}",
            "fn a() { let windows = slice.windows(2); }",
        ] {
            assert_eq!(lines(OUTSIDE, good), [0; 0], "{good}");
        }
    }
}
