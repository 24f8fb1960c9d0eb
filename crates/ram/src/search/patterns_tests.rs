//! Tests of finding patterns in bytes, against a model that compares everywhere.

use super::*;
use proptest::prelude::*;

fn found(patterns: &Patterns, haystack: &Haystack<'_>) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let flow = patterns.find(haystack, &mut |start, pattern| {
        found.push((start, pattern));
        ControlFlow::Continue(())
    });
    assert_eq!(flow, ControlFlow::Continue(()));
    found
}

fn naive(patterns: &[Vec<u8>], haystack: &Haystack<'_>) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for start in haystack.starts.clone() {
        for (index, pattern) in patterns.iter().enumerate() {
            if (haystack.address + start as u64).is_multiple_of(haystack.alignment)
                && haystack.bytes[start..].starts_with(pattern)
            {
                found.push((start, index));
            }
        }
    }
    found
}

/// Few different bytes, so that patterns overlap themselves and each other.
fn letters(length: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![4 => Just(b'a'), 1 => Just(b'b')], length)
}

proptest! {
    #[test]
    fn exactly_what_is_there_is_found(
        bytes in letters(0..300),
        patterns in proptest::collection::vec(letters(1..40), 1..6),
        address in 0_u64..5000,
        alignment in prop_oneof![Just(1_u64), 1_u64..200],
        (from, to) in (0_usize..300, 0_usize..300),
    ) {
        let from = from.min(bytes.len());
        let haystack = Haystack {
            bytes: &bytes,
            address,
            starts: from..to.clamp(from, bytes.len()),
            alignment,
        };
        let expected = naive(&patterns, &haystack);
        let ready = Patterns::new(patterns).expect("patterns");
        prop_assert_eq!(found(&ready, &haystack), expected);
    }

    #[test]
    fn a_period_is_the_least_self_overlap(pattern in letters(1..30)) {
        let least = (1..=pattern.len())
            .find(|shift| pattern[*shift..] == pattern[..pattern.len() - shift]);
        prop_assert_eq!(Some(period(&pattern)), least);
    }
}

#[test]
fn what_cannot_be_searched_for_is_refused() {
    assert_eq!(Patterns::new(vec![]).err(), Some(PatternError::None));
    let empty = Patterns::new(vec![b"a".to_vec(), vec![]]).err();
    assert_eq!(empty, Some(PatternError::Empty { index: 1 }));
    let long = Patterns::new(vec![vec![0; LONGEST + 1]]).err();
    assert!(matches!(long, Some(PatternError::TooLong { .. })));
}

#[test]
fn a_visitor_that_has_enough_ends_it() {
    for patterns in [vec![b"aa".to_vec()], vec![b"aa".to_vec(), b"a".to_vec()]] {
        for alignment in [1, 64] {
            let ready = Patterns::new(patterns.clone()).expect("patterns");
            let haystack = Haystack {
                bytes: &[b'a'; 256],
                address: 0,
                starts: 0..256,
                alignment,
            };
            let mut calls = 0;
            let flow = ready.find(&haystack, &mut |_, _| {
                calls += 1;
                ControlFlow::Break(())
            });
            assert_eq!((flow, calls), (ControlFlow::Break(()), 1));
        }
    }
}

#[test]
fn addresses_at_the_very_end_do_not_overflow() {
    let ready = Patterns::new(vec![b"aa".to_vec()]).expect("patterns");
    let bytes = [b'a'; 100];
    for alignment in [1, 64, u64::MAX] {
        let haystack = Haystack {
            bytes: &bytes,
            address: u64::MAX - 100,
            starts: 0..100,
            alignment,
        };
        assert_eq!(
            found(&ready, &haystack),
            naive(&[b"aa".to_vec()], &haystack)
        );
    }
}
