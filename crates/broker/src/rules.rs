//! Which users may use which regions and screens of which VMs: a small TOML file.
//!
//! ```toml
//! [[allow]]
//! uid = 1000                        # or gid = 100, or both, which must both match then
//! vms = ["web", "qemu:test-*"]      # names or process numbers, `vmm:name`; a star is anything
//! owner = 64055                     # only where the VMM runs as this user (default: any)
//! regions = ["numbers", "web-*"]    # names; a star is anything (default: none)
//! make = true                       # may also make and remove them (default: no)
//! max_size = "64M"                  # the largest that it may make (default: no limit of its own)
//! screens = true                    # may see screens, plug them in and set modes (default: no)
//! input = true                      # may type and point there (default: no)
//! ```
//!
//! Any entry that allows something suffices. Root may do everything, and without a file
//! nobody else anything. A file that others than root, or the broker's own user, could change
//! or replace is refused, and so are keys that are not known: a rule that is misread would open what
//! should be closed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vmshm_channel::credentials::User;
use vmshm_link::quantity;

use crate::guests::Found;

/// Where the rules are unless it is said otherwise.
pub const DEFAULT: &str = "/etc/vmshm/broker.toml";
/// The longest file in bytes.
const LIMIT: u64 = 1 << 20;
/// The longest pattern in bytes.
const LONGEST: usize = 256;

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The file cannot be read.
    #[error("cannot read the rules in {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Others could change it.
    #[error("the rules in {} could be changed by others than root", .0.display())]
    Unsafe(PathBuf),
    /// Others could put another file in its place.
    #[error(
        "the rules in {} could be replaced by others than root, who may write in {}",
        .path.display(), .directory.display()
    )]
    Replaceable {
        /// The file.
        path: PathBuf,
        /// The directory that is not root's alone to write in.
        directory: PathBuf,
        /// Whether it belongs to another user, rather than that its mode lets others write.
        foreign: bool,
    },
    /// It says something that is no rule.
    #[error("the rules in {}, line {line}: {reason}", .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
}

impl RulesError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unsafe(path) => {
                let path = path.display();
                Some(format!("chown root {path} && chmod go-w {path}"))
            }
            Self::Replaceable { foreign: true, .. } => Some(format!(
                "put them where only root may write, such as {DEFAULT}"
            )),
            Self::Replaceable { directory, .. } => {
                Some(format!("chmod go-w {}", directory.display()))
            }
            Self::Read { .. } | Self::Wrong { .. } => None,
        }
    }
}

/// Rules, and where they were read.
#[derive(Debug, Clone)]
pub struct Rules {
    path: PathBuf,
    /// Whether there is such a file.
    exists: bool,
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    allow: Vec<Entry>,
}

/// One entry as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    uid: Option<u32>,
    gid: Option<u32>,
    vms: Vec<Pattern>,
    owner: Option<u32>,
    #[serde(default)]
    regions: Vec<Pattern>,
    #[serde(default)]
    make: bool,
    max_size: Option<Size>,
    #[serde(default)]
    screens: bool,
    #[serde(default)]
    input: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Written")]
struct Entry {
    uid: Option<u32>,
    gid: Option<u32>,
    vms: Vec<Pattern>,
    owner: Option<u32>,
    regions: Vec<Pattern>,
    make: bool,
    max_size: u64,
    screens: bool,
    input: bool,
}

impl TryFrom<Written> for Entry {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        if written.uid.is_none() && written.gid.is_none() {
            return Err("an entry names a uid, a gid, or both");
        }
        if written.vms.is_empty() {
            return Err("an entry names at least one VM");
        }
        if written.regions.is_empty() && !written.screens {
            return Err("an entry allows regions, screens, or both");
        }
        if written.make && written.regions.is_empty() {
            return Err("`make` is of no effect without regions");
        }
        if written.max_size.is_some() && !written.make {
            return Err("`max_size` is of no effect without `make = true`");
        }
        if written.input && !written.screens {
            return Err("`input` is of no effect without `screens = true`");
        }
        Ok(Self {
            uid: written.uid,
            gid: written.gid,
            vms: written.vms,
            owner: written.owner,
            regions: written.regions,
            make: written.make,
            max_size: written.max_size.map_or(u64::MAX, |size| size.0),
            screens: written.screens,
            input: written.input,
        })
    }
}

impl Entry {
    fn is_of(&self, user: &User) -> bool {
        self.uid.is_none_or(|uid| uid == user.uid)
            && self.gid.is_none_or(|gid| user.is_in_group(gid))
    }

    fn names(&self, vm: &Found) -> bool {
        let long = format!("{}:{}", vm.vmm, vm.name);
        let pid = vm.pid.to_string();
        let by_name = |pattern: &Pattern| {
            pattern.matches(&vm.name) || pattern.matches(&long) || pattern.0 == pid
        };
        self.owner.is_none_or(|owner| vm.owner == Some(owner)) && self.vms.iter().any(by_name)
    }

    fn has(&self, region: &str) -> bool {
        self.regions.iter().any(|pattern| pattern.matches(region))
    }
}

/// A name, in which a star is anything.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err("a name is 1 to 256 characters");
        }
        Ok(Self(text))
    }
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut in_name) = (0, 0);
        // Where to go back to: behind the last star, and what it has swallowed.
        let mut back: Option<(usize, usize)> = None;
        while in_name < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    back = Some((at, in_name));
                }
                Some(byte) if Some(byte) == name.get(in_name) => {
                    at += 1;
                    in_name += 1;
                }
                _ => {
                    let Some((behind, swallowed)) = back else {
                        return false;
                    };
                    at = behind;
                    in_name = swallowed + 1;
                    back = Some((behind, in_name));
                }
            }
        }
        let rest = pattern.get(at..).unwrap_or_default();
        rest.iter().all(|byte| *byte == b'*')
    }
}

/// Bytes, written as on the command line.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Size(u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        quantity::parse_size(&text)
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

impl Rules {
    /// Reads the rules at `path`; without a file only root may.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn read(path: &Path) -> Result<Self, RulesError> {
        match Self::read_file(path) {
            Err(RulesError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self {
                    path: path.to_owned(),
                    exists: false,
                    entries: Vec::new(),
                })
            }
            result => result,
        }
    }

    fn read_file(path: &Path) -> Result<Self, RulesError> {
        let fail = |error| RulesError::Read {
            path: path.to_owned(),
            error,
        };
        let file = File::open(path).map_err(fail)?;
        let facts = file.metadata().map_err(fail)?;
        let own = rustix::process::geteuid().as_raw();
        if !facts.is_file() {
            return Err(fail(io::Error::other("it is no file")));
        }
        if !(facts.uid() == 0 || facts.uid() == own) || facts.mode() & 0o022 != 0 {
            return Err(RulesError::Unsafe(path.to_owned()));
        }
        Self::judge_directories(path, own)?;
        if facts.len() > LIMIT {
            return Err(fail(io::Error::other("it is longer than 1 MiB")));
        }
        let mut text = String::new();
        file.take(LIMIT).read_to_string(&mut text).map_err(fail)?;
        Self::parse(path, &text)
    }

    /// Whoever may rename files where the rules lie says what they are; where a symbolic link
    /// names them, both where it lies and where it leads.
    fn judge_directories(path: &Path, own: u32) -> Result<(), RulesError> {
        let fail = |error| RulesError::Read {
            path: path.to_owned(),
            error,
        };
        let named = std::path::absolute(path).map_err(fail)?;
        let real = path.canonicalize().map_err(fail)?;
        for directory in [&named, &real].into_iter().filter_map(|one| one.parent()) {
            let facts = directory.metadata().map_err(fail)?;
            let foreign = !(facts.uid() == 0 || facts.uid() == own);
            // In a sticky one, such as /tmp, others cannot touch a file of root's.
            if foreign || facts.mode() & 0o022 != 0 && facts.mode() & 0o1000 == 0 {
                return Err(RulesError::Replaceable {
                    path: path.to_owned(),
                    directory: directory.to_owned(),
                    foreign,
                });
            }
        }
        Ok(())
    }

    /// Whether there is a file. Without one only root may do anything.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.exists
    }

    /// Reads rules from a text.
    ///
    /// # Errors
    /// [`RulesError::Wrong`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, RulesError> {
        let contents: Contents = toml::from_str(text).map_err(|error| RulesError::Wrong {
            path: path.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            reason: error.message().to_owned(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            exists: true,
            entries: contents.allow,
        })
    }

    /// What a user may do with a VM; nothing where it may do nothing.
    #[must_use]
    pub fn of(&self, user: &User, vm: &Found) -> Option<Allowed> {
        let entries: Vec<Entry> = self
            .entries
            .iter()
            .filter(|entry| entry.is_of(user) && entry.names(vm))
            .cloned()
            .collect();
        (user.is_root() || !entries.is_empty()).then(|| Allowed {
            uid: user.uid,
            everything: user.is_root(),
            path: self.path.clone(),
            entries,
        })
    }

    /// Whether an entry is of this user at all: for nobody else is anything looked up.
    ///
    /// # Errors
    /// Why not.
    pub fn know(&self, user: &User) -> Result<(), String> {
        if user.is_root() || self.entries.iter().any(|entry| entry.is_of(user)) {
            return Ok(());
        }
        let (uid, path) = (user.uid, self.path.display());
        Err(if self.exists {
            format!("user {uid} may use nothing: no entry in {path} is of that user")
        } else {
            format!("user {uid} may use nothing: without {path} only root may")
        })
    }

    /// Why a user may do nothing with a VM.
    #[must_use]
    pub fn why_not(&self, user: &User, vm: &Found) -> String {
        let (uid, path, name) = (user.uid, self.path.display(), &vm.name);
        format!("user {uid} may use nothing of {name}: no entry in {path} allows it")
    }
}

/// What a user may do with one VM.
#[derive(Debug, Clone)]
pub struct Allowed {
    uid: u32,
    everything: bool,
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Allowed {
    /// Whether this region may be used, or why not.
    ///
    /// # Errors
    /// The reason.
    pub fn may_open(&self, region: &str) -> Result<(), String> {
        if self.everything || self.entries.iter().any(|entry| entry.has(region)) {
            return Ok(());
        }
        Err(self.no(&format!("use region `{region}`"), ""))
    }

    /// Whether this region may be made with so many bytes, or why not.
    ///
    /// # Errors
    /// The reason.
    pub fn may_make(&self, region: &str, size: u64) -> Result<(), String> {
        let limits = self.making(region).map(|entry| entry.max_size).max();
        match limits {
            _ if self.everything => Ok(()),
            None => Err(self.no(&format!("make region `{region}`"), " with `make = true`")),
            Some(limit) if size > limit => Err(format!(
                "user {} may make region `{region}` with at most {limit} bytes, not {size}: so says {}",
                self.uid,
                self.path.display()
            )),
            Some(_) => Ok(()),
        }
    }

    /// Whether this region may be removed, or why not.
    ///
    /// # Errors
    /// The reason.
    pub fn may_remove(&self, region: &str) -> Result<(), String> {
        if self.everything || self.making(region).next().is_some() {
            return Ok(());
        }
        Err(self.no(&format!("remove region `{region}`"), " with `make = true`"))
    }

    /// Whether screens may be seen, or why not.
    ///
    /// # Errors
    /// The reason.
    pub fn may_see_screens(&self) -> Result<(), String> {
        if self.everything || self.entries.iter().any(|entry| entry.screens) {
            return Ok(());
        }
        Err(self.no("see this VM's screens", " with `screens = true`"))
    }

    /// Whether keys and pointer go there, or why not.
    ///
    /// # Errors
    /// The reason.
    pub fn may_give_input(&self) -> Result<(), String> {
        if self.everything || self.entries.iter().any(|entry| entry.input) {
            return Ok(());
        }
        Err(self.no("give input to this VM", " with `input = true`"))
    }

    fn making<'a>(&'a self, region: &'a str) -> impl Iterator<Item = &'a Entry> {
        let makes = move |entry: &&Entry| entry.make && entry.has(region);
        self.entries.iter().filter(makes)
    }

    fn no(&self, what: &str, with: &str) -> String {
        let (uid, path) = (self.uid, self.path.display());
        format!("user {uid} may not {what}: no entry in {path}{with} allows it")
    }
}

/// The line of a place in a text, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
