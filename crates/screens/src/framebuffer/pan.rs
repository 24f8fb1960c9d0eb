//! Whether a guest keeps its pictures apart: it draws one while another is shown, and then
//! shows it by panning.
//!
//! Nothing announces panning, so this is judged from what was seen: a picture that came by
//! panning to a place that does not overlap the last one was whole when it came. One that
//! changed where it lies is being drawn into.

use super::picture::Picture;

/// So many pictures must have come by panning before a screen is said not to tear.
const CONFIDENCE: u32 = 16;

/// So many pictures in a row that readers were too slow for count as a guest that does not
/// keep its pictures apart.
const SPOILS: u32 = 4;
/// After so many pictures it is tried again.
const RESIGNATION: u32 = 300;

/// What was seen of panning.
#[derive(Debug, Clone, Copy, Default)]
pub struct Panning {
    shown: Option<Picture>,
    /// Pictures in a row that came by panning.
    streak: u32,
    /// Pictures in a row that were drawn over before a reader had taken them in.
    spoils: u32,
    /// Pictures that are not tried to be kept apart.
    resigned: u32,
}

/// How a picture came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// By panning, whole, to a place that does not overlap the last one.
    ByPanning,
    /// By drawing into what is shown, or nobody knows.
    ByDrawing,
}

impl Panning {
    /// A picture that differs from the last one is about to be announced.
    pub fn came(&mut self, picture: &Picture) -> Came {
        let before = self.shown.replace(*picture);
        let apart = before.is_some_and(|before| {
            picture.is_panned(&before)
                && picture.room_for_two
                && before.pan.1.abs_diff(picture.pan.1) >= picture.height
                && before.slot() != picture.slot()
        });
        let apart = apart && self.resigned == 0;
        self.resigned = self.resigned.saturating_sub(1);
        self.streak = if apart {
            self.streak.saturating_add(1)
        } else {
            0
        };
        if apart {
            Came::ByPanning
        } else {
            Came::ByDrawing
        }
    }

    /// The picture shown last was taken in, or the guest drew over it before. Readers that are
    /// always too slow get torn pictures rather than none.
    pub fn ended(&mut self, spoiled: bool) {
        self.spoils = if spoiled {
            self.spoils.saturating_add(1)
        } else {
            0
        };
        if self.spoils >= SPOILS {
            self.spoils = 0;
            self.streak = 0;
            self.resigned = RESIGNATION;
        }
    }

    /// Whether the picture shown last came by panning, so that the guest draws elsewhere now.
    #[must_use]
    pub const fn is_panning(&self) -> bool {
        self.streak > 0
    }

    /// Whether a frame may show two pictures, as far as can be told.
    #[must_use]
    pub const fn may_tear(&self) -> bool {
        self.streak < CONFIDENCE
    }
}

#[cfg(test)]
mod tests {
    use super::super::picture::tests::vfb;
    use super::*;

    fn at(yoffset: u32) -> Picture {
        let (mut variable, fixed) = vfb(64, 48, 64 * 48 * 4 * 3);
        variable.yres_virtual = 48 * 3;
        variable.yoffset = yoffset;
        Picture::new(&variable, &fixed).expect("fits")
    }

    #[test]
    fn taking_turns_keeps_pictures_apart() {
        let mut panning = Panning::default();
        assert_eq!(panning.came(&at(0)), Came::ByDrawing);
        for turn in 1..=CONFIDENCE {
            assert!(panning.may_tear());
            assert_eq!(panning.came(&at(48 * (turn % 3))), Came::ByPanning);
            assert!(panning.is_panning());
        }
        assert!(!panning.may_tear());
        assert_eq!(panning.came(&at(0)), Came::ByPanning);
        assert_eq!(panning.came(&at(0)), Came::ByDrawing);
        assert!(panning.may_tear());
    }

    #[test]
    fn slow_readers_get_torn_pictures_rather_than_none() {
        let mut panning = Panning::default();
        panning.came(&at(0));
        for turn in 1..=SPOILS {
            assert_eq!(panning.came(&at(48 * (turn % 2))), Came::ByPanning);
            panning.ended(turn != 1);
        }
        assert_eq!(panning.came(&at(48)), Came::ByPanning);
        panning.ended(true);
        for turn in 0..RESIGNATION {
            assert_eq!(panning.came(&at(48 * (turn % 2))), Came::ByDrawing);
            assert!(!panning.is_panning());
        }
        assert_eq!(panning.came(&at(0)), Came::ByPanning);
    }

    #[test]
    fn scrolling_by_panning_overlaps() {
        let mut panning = Panning::default();
        panning.came(&at(0));
        assert_eq!(panning.came(&at(20)), Came::ByDrawing);
        assert_eq!(panning.came(&at(40)), Came::ByDrawing);
    }

    #[test]
    fn another_mode_is_no_panning() {
        let mut panning = Panning::default();
        panning.came(&at(0));
        let other = Picture {
            width: 32,
            ..at(48)
        };
        assert_eq!(panning.came(&other), Came::ByDrawing);
    }
}
