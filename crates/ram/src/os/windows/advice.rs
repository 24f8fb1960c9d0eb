//! What a user of Windows can do about a refusal.

/// What gives all rights.
pub(crate) const FULL_RIGHTS: &str = "run as administrator";
/// For RAM that only the VMM has.
pub(crate) const SHARED_RAM: &str = "use the copy method";
/// Nothing is grafted here.
pub(crate) const GRAFT_FIRST: &str = "";
/// For a mapping of more pieces than the system allows.
pub(crate) const MANY_PIECES: &str = "use the copy method";

/// For a process of another user.
pub(crate) fn other_user(_owner: u32) -> String {
    FULL_RIGHTS.to_owned()
}
