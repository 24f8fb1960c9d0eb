//! Tests of views, with this process as the VMM and a plain buffer as the model.

use super::*;
use crate::access::Method;
use crate::address::BlockPiece;
use crate::os::own_process::OwnRam;
use crate::ram_error::OpenError;
use proptest::prelude::*;

const PAGE: u64 = 4096;

fn piece(own: &OwnRam, page: u64, pages: u64) -> BlockPiece {
    BlockPiece {
        at: own.at(page * PAGE),
        length: pages * PAGE,
    }
}

#[test]
fn pieces_are_one_memory_in_their_order() {
    let own = OwnRam::new(64 * PAGE);
    for page in 0..64 {
        own.mapping.store_relaxed(page * PAGE, page).expect("store");
    }
    for method in [Method::Map, Method::Copy] {
        let ram = own.open(method);
        let pieces = [
            piece(&own, 9, 1),
            piece(&own, 3, 2),
            piece(&own, 5, 1),
            piece(&own, 0, 1),
        ];
        let view = ram.view(&pieces, Protection::ReadWrite).expect("a view");
        assert_eq!(view.is_mapped(), method == Method::Map);
        assert_eq!(view.size(), 5 * PAGE);
        let firsts: Vec<u64> = (0..5)
            .map(|page| view.load_acquire(page * PAGE).expect("load"))
            .collect();
        assert_eq!(firsts, [9, 3, 4, 5, 0]);
        // Across the border between pages 9 and 3.
        view.write(PAGE - 4, b"abcdefgh").expect("write");
        let mut bytes = [0_u8; 4];
        own.mapping.read(10 * PAGE - 4, &mut bytes).expect("read");
        assert_eq!(&bytes, b"abcd");
        own.mapping.read(3 * PAGE, &mut bytes).expect("read");
        assert_eq!(&bytes, b"efgh");
        own.mapping.store_relaxed(3 * PAGE, 3).expect("store");
    }
}

#[test]
fn what_a_view_must_refuse_it_refuses() {
    let own = OwnRam::new(16 * PAGE);
    for method in [Method::Map, Method::Copy] {
        let ram = own.open(method);
        let view = ram
            .view(&[piece(&own, 1, 1)], Protection::Read)
            .expect("a view");
        assert_eq!(view.store_release(0, 1), Err(Fault::ReadOnly));
        assert_eq!(view.write(0, b"x"), Err(Fault::ReadOnly));
        assert_eq!(view.load_relaxed(4), Err(Fault::Misaligned { offset: 4 }));
        for offset in [PAGE, PAGE * 2, u64::MAX - 7] {
            assert!(matches!(
                view.load_acquire(offset),
                Err(Fault::OutOfBounds { .. })
            ));
        }
        let mut bytes = [0_u8; 16];
        assert!(matches!(
            view.read(PAGE - 8, &mut bytes),
            Err(Fault::OutOfBounds { .. })
        ));
        assert_eq!(view.read(PAGE, &mut []), Ok(()));
        let bad = [
            BlockPiece {
                at: own.at(1),
                length: PAGE,
            },
            BlockPiece {
                at: own.at(0),
                length: 100,
            },
            BlockPiece {
                at: own.at(0),
                length: 0,
            },
            BlockPiece {
                at: own.at(0),
                length: 17 * PAGE,
            },
            BlockPiece {
                at: own.at(u64::MAX - PAGE + 1),
                length: PAGE,
            },
        ];
        for piece in bad {
            let result = ram.view(&[piece], Protection::Read);
            assert!(
                matches!(result, Err(OpenError::BadPiece { .. })),
                "{piece:?}"
            );
        }
        assert!(ram.view(&[], Protection::Read).is_err());
    }
}

/// Aligned words must never be seen half written, whichever side copies.
#[test]
fn words_do_not_tear_over_copies() {
    const ROUNDS: u64 = 40_000;
    let own = OwnRam::new(16 * PAGE);
    let ram = own.open(Method::Copy);
    let view = ram
        .view(&[piece(&own, 0, 1)], Protection::ReadWrite)
        .expect("a view");
    let halves_agree = |word: u64| word >> 32 == word & 0xffff_ffff;
    let twice = |round: u64| (round & 0xffff_ffff) << 32 | round & 0xffff_ffff;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                own.mapping.store_release(56, twice(round)).expect("store");
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let word = own.mapping.load_acquire(128).expect("load");
                assert!(halves_agree(word), "torn store: {word:#x}");
            }
        });
        for round in 0..ROUNDS {
            let word = view.load_acquire(56).expect("load");
            assert!(halves_agree(word), "torn load: {word:#x}");
            view.store_release(128, twice(round)).expect("store");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn an_abandoned_view_that_copies_writes_nothing_more() {
    let own = OwnRam::new(16 * PAGE);
    let ram = own.open(Method::Copy);
    let view = ram
        .view(&[piece(&own, 0, 1)], Protection::ReadWrite)
        .expect("a view");
    view.store_relaxed(8, 1).expect("stored");
    view.stop_copying();
    view.store_relaxed(8, 2).expect("nobody's");
    view.write(8, &[3; 8]).expect("nobody's");
    assert_eq!(own.mapping.load_relaxed(8), Ok(1));
    assert_eq!(view.load_relaxed(8), Ok(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn views_agree_with_a_plain_buffer(
        // More pieces than one vectored call takes, now and then.
        order in prop_oneof![4 => Just(16_u64), 1 => Just(2600_u64)],
        stride in 1..7_u64,
        accesses in proptest::collection::vec((any::<bool>(), 0.0..1.0_f64, 1..40_000_usize, any::<u8>()), 1..6),
    ) {
        let pages = order;
        let own = OwnRam::new(pages * PAGE);
        for method in [Method::Map, Method::Copy] {
            let ram = own.open(method);
            // Every page, but out of order: those that leave the same rest come together.
            let pieces: Vec<BlockPiece> = (0..stride)
                .flat_map(|rest| (0..pages).filter(move |page| page % stride == rest))
                .map(|page| piece(&own, page, 1))
                .collect();
            let view = ram.view(&pieces, Protection::ReadWrite).expect("a view");
            let size = usize::try_from(view.size()).expect("fits");
            let mut model = vec![0_u8; size];
            view.write(0, &model).expect("write");
            for (writing, place, length, fill) in &accesses {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "any place will do")]
                let start = (place * size as f64) as usize;
                let end = size.min(start + length);
                if *writing {
                    model[start..end].fill(*fill);
                    view.write(start as u64, &model[start..end]).expect("write");
                } else {
                    let mut bytes = vec![0_u8; end - start];
                    view.read(start as u64, &mut bytes).expect("read");
                    prop_assert!(bytes == model[start..end]);
                }
            }
            let mut whole = vec![1_u8; size];
            view.read(0, &mut whole).expect("read");
            prop_assert!(whole == model);
        }
    }
}

#[test]
fn a_guests_page_may_lie_anywhere_where_it_is_copied() {
    // As in a program that got its guest's RAM from an allocator.
    let own = OwnRam::new(4 * 4096);
    let ram = own.open(Method::Copy);
    let piece = |offset| BlockPiece {
        at: own.at(offset),
        length: 4096,
    };
    let view = ram.view(&[piece(8192 + 16), piece(16)], Protection::ReadWrite);
    let view = view.expect("aligned for words");
    view.store_relaxed(8, 0x1122).expect("store");
    view.write(4096, b"second").expect("write");
    assert_eq!(own.mapping.load_relaxed(8192 + 24).expect("load"), 0x1122);
    let mut seen = [0; 6];
    own.mapping.read(16, &mut seen).expect("read");
    assert_eq!(&seen, b"second");
    let odd = ram.view(&[piece(4)], Protection::Read);
    assert!(matches!(odd, Err(OpenError::BadPiece { .. })));
    let mapped = own.open(Method::Map).view(&[piece(16)], Protection::Read);
    assert!(matches!(mapped, Err(OpenError::BadPiece { .. })));
}
