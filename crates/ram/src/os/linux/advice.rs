//! What a user of Linux can do about a refusal.

use super::process::user_label;

/// What gives all rights.
pub(crate) const FULL_RIGHTS: &str = "run as root";
/// For RAM that only the VMM has.
pub(crate) const SHARED_RAM: &str = "use the copy method, or start the VM with shared RAM (QEMU: -object memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram)";
/// Goes before the former, where a single region may do.
pub(crate) const GRAFT_FIRST: &str =
    "use --method graft, if `vmshm doctor` says that nothing stands in its way; or ";
/// For a mapping of more pieces than the system allows.
pub(crate) const MANY_PIECES: &str = "raise vm.max_map_count, or use the copy method";

/// For a process of another user.
pub(crate) fn other_user(owner: u32) -> String {
    if owner == 0 {
        FULL_RIGHTS.to_owned()
    } else {
        format!("{FULL_RIGHTS}, or as {}", user_label(owner))
    }
}
