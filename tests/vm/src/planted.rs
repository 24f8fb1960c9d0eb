//! Pages in a guest whose contents and addresses its own program tells: the truth about where guest memory lies.

use crate::bytes::RandomBytes;
use crate::environment::guest_program;
use crate::guest::{Guest, Job};
use crate::patience::{LATER, wait_for};

/// What a page holds that lies at `address`.
#[must_use]
pub fn page_contents(seed: u64, address: u64) -> Vec<u8> {
    RandomBytes::new(seed ^ address.rotate_left(20)).take(4096)
}

/// Pages that a program in the guest holds while this lives.
#[derive(Debug)]
pub struct Planted<'a> {
    seed: u64,
    guest: &'a Guest,
    job: Job<'a>,
    /// Guest-physical addresses, and where the program has them.
    pages: Vec<(u64, u64)>,
}

impl<'a> Planted<'a> {
    /// Starts the program and waits until it has planted everything.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn in_guest(guest: &'a Guest) -> Self {
        let seed = RandomBytes::fresh_seed();
        let job = guest.start(&format!("exec {} {seed}", guest_program("plant-pages")));
        let mut said = String::new();
        wait_for("planted pages", LATER, || {
            said = job.output();
            let errors = job.errors();
            assert!(errors.is_empty(), "plant-pages: {errors}");
            said.ends_with("planted")
        });
        let pages = said.lines().filter_map(|line| {
            let (address, at) = line.strip_prefix("page ")?.split_once(' ')?;
            let number = |digits| u64::from_str_radix(digits, 16).ok();
            Some((number(address)?, number(at)?))
        });
        let pages: Vec<(u64, u64)> = pages.collect();
        assert!(!pages.is_empty(), "nothing is planted");
        Self {
            seed,
            guest,
            job,
            pages,
        }
    }

    /// Their guest-physical addresses.
    pub fn addresses(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.iter().map(|(address, _)| *address)
    }

    /// What must be read at one of the addresses.
    #[must_use]
    pub fn contents(&self, address: u64) -> Vec<u8> {
        page_contents(self.seed, address)
    }

    /// Whether the guest's kernel still has the page at this address: it may move pages.
    ///
    /// # Panics
    /// When no page was planted there.
    #[must_use]
    pub fn is_still_at(&self, address: u64) -> bool {
        let page = self.pages.iter().find(|page| page.0 == address);
        let (_, at) = page.expect("a planted page");
        let find = format!(
            "for pid in /proc/[0-9]*; do case $(readlink $pid/exe) in */plant-pages) \
             vmshm-agent translate ${{pid#/proc/}} {at:#x};; esac; done"
        );
        let found = self.guest.check(&find);
        found.contains(&format!("{address:#x}"))
    }

    /// Ends the program.
    pub fn end(self) {
        drop(self.job);
    }
}
