//! Dumps of any memory through any chain of formats, and dumps with damage: what is read is what was written, or it is
//! refused.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use rustix::fs::ftruncate;

use super::write_tests::{FORMATS, PAGE, content, converted, lime_file, runs, stored};
use super::*;
use crate::{BlockOffset, GuestRam};

/// What lies at a page of a generated dump.
#[derive(Debug, Clone)]
enum Page {
    Zero,
    Same(u8),
    Mixed(u8),
}

fn page() -> impl Strategy<Value = Page> {
    prop_oneof![
        Just(Page::Zero),
        (1_u8..=255).prop_map(Page::Same),
        (1_u8..=255).prop_map(Page::Mixed),
    ]
}

/// Ranges with holes between them: (hole before, bytes cut off at both ends, pages).
fn ranges() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
    let range = (
        0_u64..6,
        0_usize..3000,
        0_usize..1000,
        proptest::collection::vec(page(), 1..6),
    );
    proptest::collection::vec(range, 1..6).prop_map(|parts| {
        // No file's first bytes are those of another format by chance: those that a raw
        // dump starts with are zeros here.
        let mut at = PAGE;
        let mut ranges = Vec::new();
        for (hole, front, back, pages) in parts {
            let mut bytes = Vec::new();
            for page in &pages {
                bytes.extend(match page {
                    Page::Zero => vec![0; 4096],
                    Page::Same(byte) => vec![*byte; 4096],
                    Page::Mixed(byte) => (0..4096_u32)
                        .map(|at| {
                            if at % 512 == u32::from(*byte) {
                                *byte
                            } else {
                                0
                            }
                        })
                        .collect(),
                });
            }
            let start = at + hole * PAGE + front as u64;
            bytes.drain(..front);
            bytes.truncate(bytes.len() - back);
            at = (start + bytes.len() as u64).next_multiple_of(PAGE);
            ranges.push((start, bytes));
        }
        ranges
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_format_holds_any_memory(ranges in ranges(), path in proptest::collection::vec(0_usize..3, 1..4)) {
        let source = lime_file(&ranges);
        let source = stored(&source);
        let expected = content(&source);
        let mut files = vec![];
        let mut dump = source.clone();
        for format in path {
            let file = converted(&dump, FORMATS[format]);
            dump = stored(&file);
            files.push(file);
            // A raw file has no holes of the layout any more, but what was there.
            prop_assert!(content(&dump) == expected);
        }
    }

    #[test]
    fn a_dump_with_damage_anywhere_in_its_headers_is_read_or_refused(
        ranges in ranges(),
        format in 0_usize..3,
        damage in proptest::collection::vec((0_u64..400, proptest::num::u8::ANY), 1..4),
        cut in proptest::option::of(0_u64..40_000),
    ) {
        let source = lime_file(&ranges);
        let file = converted(&stored(&source), FORMATS[format]);
        let length = file.as_file().metadata().expect("known").len();
        for (at, byte) in damage {
            file.as_file().write_all_at(&[byte], at % length).expect("written");
        }
        if let Some(cut) = cut {
            ftruncate(file.as_file(), cut.min(length)).expect("cut");
        }
        if let Ok(dump) = StoredDump::open(file.path()) {
            let ram = GuestRam::stored(&dump);
            for range in dump.layout().ranges() {
                for at in [0, range.extent.length - 1] {
                    let from = BlockOffset { block: range.at.block, offset: range.at.offset + at };
                    let mut byte = [0];
                    ram.read_at(from, &mut byte).expect("what the headers promise is there");
                }
            }
            for format in FORMATS {
                let Ok(plan) = DumpPlan::new(dump.layout(), format) else { continue };
                let mut end = 0;
                plan.write(&ram, &mut |at, bytes| { end = at + bytes.len() as u64; Ok(()) }, &mut |_| true)
                    .expect("it can be read");
                prop_assert!(end <= plan.file_length());
            }
        }
    }

    #[test]
    fn a_dump_that_is_cut_short_is_refused(ranges in ranges(), format in 0_usize..2, cut in 0.0..1.0) {
        let source = lime_file(&ranges);
        let file = converted(&stored(&source), FORMATS[format]);
        let length = file.as_file().metadata().expect("known").len();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let cut = (length as f64 * cut) as u64;
        prop_assume!(cut < length);
        // A LiME file that ends between two ranges says nothing of those that follow.
        let mut end = 0;
        let borders: Vec<u64> = runs(&stored(&file)).iter().map(|run| { end += 32 + run.1; end }).collect();
        prop_assume!(FORMATS[format] != DumpFormat::Lime || !borders.contains(&cut));
        // What is cut to nothing of a format's mark is an empty or a raw file.
        prop_assume!(cut >= 4 || cut == 0);
        ftruncate(file.as_file(), cut).expect("cut");
        let error = StoredDump::open(file.path()).expect_err("cut short");
        prop_assert!(!error.to_string().is_empty());
    }
}
