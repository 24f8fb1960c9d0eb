//! Judges why a process may not be opened, by what is known of it and of whoever asks.

use crate::access::Obstacle;

/// What the judgement goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// Whether the system says that it protects the process.
    pub(super) is_protected: bool,
    /// Whether whoever asks holds SeDebugPrivilege, with which all others may be opened.
    pub(super) may_debug: bool,
    /// Whose process it is; 0 where that is not known.
    pub(super) owner: u32,
    /// Who asks.
    pub(super) own: u32,
}

/// Why the process may not be opened.
pub(super) const fn why(asked: &Asked) -> Obstacle {
    if asked.is_protected || asked.may_debug {
        Obstacle::Protected
    } else if asked.owner != 0 && asked.owner != asked.own {
        Obstacle::OtherUser {
            owner: asked.owner,
            own: asked.own,
        }
    } else {
        Obstacle::NotElevated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_reason_and_what_helps() {
        let ordinary = Asked {
            is_protected: false,
            may_debug: false,
            owner: 1,
            own: 1,
        };
        // The same user's process that runs elevated, and one of which nothing is known.
        assert_eq!(why(&ordinary), Obstacle::NotElevated);
        let unknown = Asked {
            owner: 0,
            ..ordinary
        };
        assert_eq!(why(&unknown), Obstacle::NotElevated);
        assert!(why(&unknown).hint().is_some());
        let foreign = Asked {
            owner: 2,
            ..ordinary
        };
        assert_eq!(why(&foreign), Obstacle::OtherUser { owner: 2, own: 1 });
        // No right helps against the system's own protection.
        for asked in [
            Asked {
                is_protected: true,
                ..foreign
            },
            Asked {
                may_debug: true,
                ..foreign
            },
        ] {
            assert_eq!(why(&asked), Obstacle::Protected);
            assert_eq!(why(&asked).hint(), None);
        }
    }
}
