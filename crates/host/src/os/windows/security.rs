//! Who may use a file, by its security descriptor; and the descriptor of one that is a single
//! user's. It knows no system call, so that it is tested anywhere.
//!
//! The layouts are those of [MS-DTYP] 2.4 (SID, ACE, ACL, SECURITY_DESCRIPTOR in its
//! self-relative form). Whatever is not understood counts as open to others.

/// Local System (S-1-5-18) and the administrators (S-1-5-32-544): they can read everything,
/// as root can.
const SYSTEM: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
const ADMINISTRATORS: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];
/// Stand for whoever owns a file: S-1-3-0 in what new files inherit, and S-1-3-4.
const CREATOR_OWNER: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
const OWNER_RIGHTS: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0];

const DACL_PRESENT: u16 = 0x0004;
const DACL_PROTECTED: u16 = 0x1000;
const SELF_RELATIVE: u16 = 0x8000;
const ACCESS_ALLOWED: u8 = 0;
const ACCESS_DENIED: u8 = 1;
/// Files and directories that are made inside inherit the entry.
const INHERITED_BY_ALL: u8 = 0x03;
const FILE_ALL_ACCESS: u32 = 0x001f_01ff;
const HEADER: usize = 20;
const ACL_HEADER: usize = 8;
const ACE_HEADER: usize = 8;

/// Whether nobody but `user`, the system and its administrators owns or may use what has
/// this descriptor, or what will be made in it.
pub(super) fn is_of_user_alone(descriptor: &[u8], user: &[u8]) -> bool {
    judge(descriptor, user).unwrap_or(false)
}

fn judge(descriptor: &[u8], user: &[u8]) -> Option<bool> {
    let is_trusted = |sid: &[u8]| sid == user || sid == SYSTEM || sid == ADMINISTRATORS;
    let control = short(descriptor, 2)?;
    let owner = sid(descriptor.get(offset(descriptor, 4)?..)?)?;
    let list = offset(descriptor, 16)?;
    if control & SELF_RELATIVE == 0 || control & DACL_PRESENT == 0 || list == 0 {
        // Without a list everybody may do everything.
        return Some(false);
    }
    if !is_trusted(owner) {
        return Some(false);
    }
    let list = descriptor.get(list..)?;
    let list = list.get(..usize::from(short(list, 2)?))?;
    let count = short(list, 4)?;
    let mut rest = list.get(ACL_HEADER..)?;
    for _ in 0..count {
        let length = usize::from(short(rest, 2)?);
        let entry = rest
            .get(..length)
            .filter(|entry| entry.len() >= ACE_HEADER)?;
        rest = rest.get(length..)?;
        match *entry.first()? {
            ACCESS_DENIED => {}
            ACCESS_ALLOWED => {
                let who = sid(entry.get(ACE_HEADER..)?)?;
                if !is_trusted(who) && who != CREATOR_OWNER && who != OWNER_RIGHTS {
                    return Some(false);
                }
            }
            _ => return Some(false),
        }
    }
    Some(true)
}

/// A descriptor by which `user`, the system and its administrators may do everything with a
/// directory and what is made in it, and nobody else anything; it belongs to `user`, and
/// inherits nothing.
pub(super) fn of_user_alone(user: &[u8]) -> Vec<u8> {
    let entries: Vec<u8> = [user, SYSTEM, ADMINISTRATORS]
        .into_iter()
        .flat_map(allowing)
        .collect();
    let list = HEADER + user.len();
    let mut bytes = vec![1, 0];
    bytes.extend((DACL_PRESENT | DACL_PROTECTED | SELF_RELATIVE).to_le_bytes());
    bytes.extend(number(HEADER));
    // No group, and no list for auditing.
    bytes.extend([0; 8]);
    bytes.extend(number(list));
    bytes.extend(user);
    bytes.extend([2, 0]);
    bytes.extend(&number(ACL_HEADER + entries.len())[..2]);
    bytes.extend([3, 0, 0, 0]);
    bytes.extend(entries);
    bytes
}

fn allowing(sid: &[u8]) -> Vec<u8> {
    let mut entry = vec![ACCESS_ALLOWED, INHERITED_BY_ALL];
    entry.extend(&number(ACE_HEADER + sid.len())[..2]);
    entry.extend(FILE_ALL_ACCESS.to_le_bytes());
    entry.extend(sid);
    entry
}

/// The SID at the start of these bytes.
pub(super) fn sid(bytes: &[u8]) -> Option<&[u8]> {
    let [1, authorities, ..] = bytes else {
        return None;
    };
    // At most 15 (SID_MAX_SUB_AUTHORITIES).
    let length = 8 + 4 * usize::from(*authorities);
    bytes.get(..length).filter(|_| *authorities <= 15)
}

fn number(value: usize) -> [u8; 4] {
    // A descriptor of three SIDs has some hundred bytes.
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn offset(bytes: &[u8], at: usize) -> Option<usize> {
    let field = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    usize::try_from(field).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S-1-5-21-1-2-3-1000 and S-1-1-0, everyone.
    const USER: &[u8] = &[
        1, 5, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0xe8, 3, 0, 0,
    ];
    const EVERYONE: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

    #[test]
    fn what_is_made_for_one_user_is_found_to_be_that_users_alone() {
        let descriptor = of_user_alone(USER);
        assert!(is_of_user_alone(&descriptor, USER));
        assert!(!is_of_user_alone(&descriptor, EVERYONE), "another user");
        assert!(is_of_user_alone(&of_user_alone(SYSTEM), USER));
    }

    #[test]
    fn one_entry_for_somebody_else_opens_it_unless_it_denies() {
        let mut open = of_user_alone(USER);
        let list = HEADER + USER.len();
        let length = short(&open, list + 2).expect("there");
        let entry = allowing(EVERYONE);
        open[list + 2..][..2].copy_from_slice(&(length + 20).to_le_bytes());
        open[list + 4] = 4;
        open.extend(&entry);
        assert!(!is_of_user_alone(&open, USER));
        let at = open.len() - entry.len();
        open[at] = ACCESS_DENIED;
        assert!(is_of_user_alone(&open, USER));
        // A kind of entry that is not known.
        open[at] = 9;
        assert!(!is_of_user_alone(&open, USER));
        open[at] = ACCESS_ALLOWED;
        open[at + 16] = 7;
        assert!(!is_of_user_alone(&open, USER));
        open[at + ACE_HEADER..][..12].copy_from_slice(CREATOR_OWNER);
        assert!(is_of_user_alone(&open, USER));
    }

    #[test]
    fn without_a_list_or_with_a_damaged_one_it_is_open() {
        let good = of_user_alone(USER);
        let mut unlisted = good.clone();
        unlisted[2] &= !4;
        assert!(!is_of_user_alone(&unlisted, USER));
        let mut null = good.clone();
        null[16..20].fill(0);
        assert!(!is_of_user_alone(&null, USER));
        for length in 0..good.len() {
            assert!(!is_of_user_alone(&good[..length], USER), "{length}");
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut odd = good.clone();
                odd[at] = value;
                // Whatever comes of it, it is judged.
                let _ = is_of_user_alone(&odd, USER);
            }
        }
    }
}
