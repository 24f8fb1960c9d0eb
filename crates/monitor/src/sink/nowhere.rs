//! Pictures that go nowhere: for measuring, and for proving that nothing tears.

use std::sync::{Arc, Mutex};

use vmshm_link::test_card::Verifier;
use zerocopy::IntoBytes;

use crate::canvas::{Shown, lock};
use crate::feed::{Feed, News, Show};
use crate::figures::Figures;

/// Takes frames in until the end; verifies each as a test card if told so.
pub fn run(feed: Feed, verify: bool) {
    let mut sink = Sink {
        shown: Arc::clone(&feed.shown),
        figures: Arc::clone(&feed.figures),
        verify,
    };
    feed.run(&mut sink);
}

#[derive(Debug)]
struct Sink {
    shown: Arc<Mutex<Shown>>,
    figures: Arc<Mutex<Figures>>,
    verify: bool,
}

impl Sink {
    /// Whether the picture is a whole test card, and the one that its frame says it is.
    fn is_right(&self, checksum: u64) -> bool {
        let shown = lock(&self.shown);
        let (width, height) = shown.canvas.size();
        let mut verifier = Verifier::new(width, height);
        for row in 0..height {
            verifier.row(shown.canvas.row(row).as_bytes());
        }
        let verdict = verifier.verdict();
        verdict.is_right && (checksum == 0 || checksum == verdict.stated)
    }
}

impl Show for Sink {
    fn tell(&mut self, news: News) -> bool {
        match news {
            News::End => false,
            News::Picture(taken) if self.verify => {
                if !self.is_right(taken.frame.checksum) {
                    lock(&self.figures).counts.wrong += 1;
                }
                true
            }
            _ => true,
        }
    }
}
