//! The played guest's test card: a screen that is not in the list, and shows one picture until the next is ordered or
//! somebody comes to look, so that whoever takes a screenshot can know what is on it.

use vmshm_link::frames::{Damage, Mode};
use vmshm_link::test_card::{Checksum, TestCard};

use crate::guest::Guest;
use crate::ram::GuestMemory;

/// Its size, until a host sets another.
const MODE: Mode = Mode {
    width: 320,
    height: 200,
    refresh_millihertz: 60_000,
};

impl<M: GuestMemory> Guest<M> {
    /// The screen with the card, which is there once somebody asks for it. Nothing where no card has room.
    pub(crate) fn test_card(&mut self) -> Option<usize> {
        if self.plan.most < MODE.width {
            return None;
        }
        let known = self.screens.all.iter().position(|screen| screen.is_card);
        Some(known.unwrap_or_else(|| {
            let index = self.screens.add("test-card", MODE, None);
            self.screens.all[index].is_card = true;
            index
        }))
    }

    /// Who has just come waits for a picture that is newer than its coming.
    pub(crate) fn greet_readers(&mut self) {
        let mut cards = self.screens.all.iter_mut();
        let Some(index) = cards.position(|screen| screen.is_card) else {
            return;
        };
        let screen = &mut self.screens.all[index];
        let Some(writer) = &screen.writer else {
            return;
        };
        let opened = |slot: &usize| writer.reader(*slot).expect("there").opened;
        let now: Vec<_> = screen.watchers.iter().map(opened).collect();
        if now != screen.greeted {
            screen.greeted = now;
            let _ = self.draw_card(index);
        }
    }

    /// The serial of the card that is shown; nothing where none is.
    pub(crate) fn shown_card(&self) -> Option<u64> {
        let card = self.screens.all.iter().find(|screen| screen.is_card)?;
        Some(card.writer.as_ref()?.newest())
    }

    /// Draws and shows the next card; its serial.
    pub(crate) fn draw_card(&mut self, index: usize) -> Option<u64> {
        let screen = &mut self.screens.all[index];
        let serial = screen.writer.as_ref()?.newest() + 1;
        let (width, height) = (screen.mode.width, screen.mode.height);
        let card = TestCard::new(width, height, serial)?;
        let checksum = Checksum::of(card).get();
        let rows = screen.picture.chunks_mut(width as usize * 4);
        for (row, bytes) in (0..height).zip(rows) {
            card.draw(row, 0, checksum, bytes);
        }
        self.publish(index, Damage::whole(width, height), Some(checksum));
        Some(serial)
    }
}
