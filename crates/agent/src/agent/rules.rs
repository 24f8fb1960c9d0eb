//! Which users of this guest may use which regions: a small TOML file.
//!
//! ```toml
//! [[allow]]
//! uid = 1000                        # or gid = 100, or both, which must both match then
//! regions = ["numbers", "web-*"]    # exact names, or a prefix and a star
//! make = true                       # may also make and remove them (default: no)
//! max_size = "64M"                  # the largest that it may make (default: no limit of its own)
//! ```
//!
//! Any entry that allows something suffices. Root may do everything, and without a file
//! nobody else anything. A file that others than root could change is refused, and so are
//! keys that are not known: a rule that is misread would open what should be closed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vmshm_link::directory::MAX_NAME;
use vmshm_link::quantity;

use vmshm_channel::credentials::User;

/// Where the rules are unless `run --rules` says otherwise.
pub(crate) const DEFAULT: &str = "/etc/vmshm/agent.toml";
/// The longest file in bytes.
const LIMIT: u64 = 1 << 20;

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
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
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Unsafe(path) => {
                let path = path.display();
                Some(format!("chown root {path} && chmod go-w {path}"))
            }
            Self::Read { .. } | Self::Wrong { .. } => None,
        }
    }
}

/// Rules, and where they were read.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
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
    regions: Vec<Pattern>,
    #[serde(default)]
    make: bool,
    max_size: Option<Size>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Written")]
struct Entry {
    uid: Option<u32>,
    gid: Option<u32>,
    regions: Vec<Pattern>,
    make: bool,
    max_size: Option<u64>,
}

impl TryFrom<Written> for Entry {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written {
            uid,
            gid,
            regions,
            make,
            max_size,
        } = written;
        if uid.is_none() && gid.is_none() {
            return Err("an entry names a uid, a gid, or both");
        }
        if regions.is_empty() {
            return Err("an entry names at least one region");
        }
        if max_size.is_some() && !make {
            return Err("max_size is of no effect without `make = true`");
        }
        Ok(Self {
            uid,
            gid,
            regions,
            make,
            max_size: max_size.map(|size| size.0),
        })
    }
}

impl Entry {
    fn is_of(&self, user: &User) -> bool {
        self.uid.is_none_or(|uid| uid == user.uid)
            && self.gid.is_none_or(|gid| user.is_in_group(gid))
    }

    fn names(&self, region: &str) -> bool {
        self.regions.iter().any(|pattern| pattern.matches(region))
    }
}

/// A name, or the start of names.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
enum Pattern {
    Exact(String),
    Prefix(String),
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(mut text: String) -> Result<Self, Self::Error> {
        let is_prefix = text.ends_with('*');
        if is_prefix {
            text.pop();
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let possible = text.len() <= MAX_NAME
            && text.bytes().all(allowed)
            && !text.starts_with(['.', '-'])
            && (is_prefix || !text.is_empty());
        match (possible, is_prefix) {
            (true, true) => Ok(Self::Prefix(text)),
            (true, false) => Ok(Self::Exact(text)),
            (false, _) => Err(
                "no region is called so: a name is 1 to 64 letters, digits, dots, dashes and underscores, with a star only at its end"
                    .to_owned(),
            ),
        }
    }
}

impl Pattern {
    fn matches(&self, region: &str) -> bool {
        match self {
            Self::Exact(name) => region == name,
            Self::Prefix(start) => region.starts_with(start.as_str()),
        }
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
    /// Reads the rules: those in `named`, which must be there, or those at
    /// [`DEFAULT`], which need not.
    pub(crate) fn read(named: Option<&Path>) -> Result<Self, RulesError> {
        match (named, Self::read_at(named.unwrap_or(Path::new(DEFAULT)))) {
            (None, Err(RulesError::Read { error, .. }))
                if error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(Self::none())
            }
            (_, result) => result,
        }
    }

    /// Only root may.
    pub(crate) fn none() -> Self {
        Self {
            path: PathBuf::from(DEFAULT),
            exists: false,
            entries: Vec::new(),
        }
    }

    fn read_at(path: &Path) -> Result<Self, RulesError> {
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
        if facts.len() > LIMIT {
            return Err(fail(io::Error::other("it is longer than 1 MiB")));
        }
        let mut text = String::new();
        file.take(LIMIT).read_to_string(&mut text).map_err(fail)?;
        Self::parse(path, &text)
    }

    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, RulesError> {
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

    /// Whether an entry asks for groups.
    pub(crate) fn ask_for_groups(&self) -> bool {
        self.entries.iter().any(|entry| entry.gid.is_some())
    }

    /// Whether the rules name this user at all.
    pub(crate) fn know(&self, user: &User) -> bool {
        user.is_root() || self.entries.iter().any(|entry| entry.is_of(user))
    }

    /// Whether a user may open a region, or why not.
    pub(crate) fn may_open(&self, user: &User, region: &str) -> Result<(), String> {
        if user.is_root() || self.of(user, region).next().is_some() {
            return Ok(());
        }
        let (uid, path) = (user.uid, self.path.display());
        Err(if self.exists {
            format!("user {uid} may not use region `{region}`: no entry in {path} allows it")
        } else {
            format!("user {uid} may not use region `{region}`: without {path} only root may")
        })
    }

    /// Whether a user may remove a region that is there, or why not.
    pub(crate) fn may_remove(&self, user: &User, region: &str) -> Result<(), String> {
        if self.makes(user, region) {
            return Ok(());
        }
        let (uid, path) = (user.uid, self.path.display());
        Err(format!(
            "user {uid} may not remove region `{region}`: no entry in {path} with `make = true` allows it"
        ))
    }

    /// Whether a user may make a region of this name with some size.
    pub(crate) fn makes(&self, user: &User, region: &str) -> bool {
        user.is_root() || self.of(user, region).any(|entry| entry.make)
    }

    /// Whether a user may make a region that is not there with so many bytes, or why not.
    pub(crate) fn may_make(&self, user: &User, region: &str, size: u64) -> Result<(), String> {
        let (uid, path) = (user.uid, self.path.display());
        if !self.makes(user, region) {
            return Err(format!(
                "there is no region `{region}`, and user {uid} may not make it: no entry in {path} with `make = true` allows it"
            ));
        }
        let limit = if user.is_root() {
            u64::MAX
        } else {
            self.of(user, region)
                .filter(|entry| entry.make)
                .map(|entry| entry.max_size.unwrap_or(u64::MAX))
                .max()
                .unwrap_or(0)
        };
        if size <= limit {
            return Ok(());
        }
        Err(format!(
            "user {uid} may make region `{region}` with at most {limit} bytes, not {size}: so says {path}"
        ))
    }

    fn of<'a>(&'a self, user: &'a User, region: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.is_of(user) && entry.names(region))
    }
}

/// The line of a place in a text, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
