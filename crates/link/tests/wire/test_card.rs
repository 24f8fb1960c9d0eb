//! The test card: what moves lies in the damage, checksums kept up are those of the whole
//! picture, and whatever is not one whole frame is found out.

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::frames::Rectangle;
use vmshm_link::test_card::{Checksum, MIN_SIDE, TestCard, Verdict, Verifier};

/// A whole picture, row by row.
pub fn picture(card: &TestCard) -> Vec<Vec<u8>> {
    let checksum = Checksum::of(*card).get();
    let row = |row| {
        let mut bytes = vec![0; 4 * card.width() as usize];
        card.draw(row, 0, checksum, &mut bytes);
        bytes
    };
    (0..card.height()).map(row).collect()
}

fn judge(width: u32, height: u32, rows: &[Vec<u8>]) -> Verdict {
    let mut verifier = Verifier::new(width, height);
    rows.iter().for_each(|row| verifier.row(row));
    verifier.verdict()
}

fn side() -> impl Strategy<Value = u32> {
    prop_oneof![MIN_SIDE..140, Just(64), Just(128), Just(127), Just(129)]
}

fn serial() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..1000, any::<u64>(), Just(u64::MAX)]
}

/// Serials that are seldom far from each other.
fn later() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1_u64..4, 1 => 1_u64..100, 1 => any::<u64>()]
}

fn pixel(rows: &[Vec<u8>], x: usize, y: usize) -> &[u8] {
    &rows[y][4 * x..4 * x + 4]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_whole_picture_is_right_and_says_its_serial(
        width in side(), height in side(), serial in serial(), lost in any::<u8>(),
    ) {
        let card = TestCard::new(width, height, serial).expect("large enough");
        let mut rows = picture(&card);
        let checksum = Checksum::of(card).get();
        let right = Verdict { serial, stated: checksum, computed: checksum, is_right: true };
        prop_assert_eq!(judge(width, height, &rows), right);
        // Nothing depends on the unused byte.
        rows.iter_mut().flat_map(|row| row.chunks_exact_mut(4)).for_each(|one| one[3] = lost);
        prop_assert_eq!(judge(width, height, &rows), right);
    }

    #[test]
    fn any_part_of_a_row_is_drawn_as_in_the_whole(
        width in side(),
        height in side(),
        serial in serial(),
        parts in vec((0_u32..150, 0_u32..150, 0_usize..150), 0..50),
    ) {
        let card = TestCard::new(width, height, serial).expect("large enough");
        let rows = picture(&card);
        let checksum = Checksum::of(card).get();
        for (row, column, count) in parts {
            let mut part = vec![7; 4 * count + 3];
            card.draw(row, column, checksum, &mut part);
            let inside = if row < height { width.saturating_sub(column) } else { 0 };
            let drawn = count.min(inside as usize);
            if drawn > 0 {
                let start = 4 * column as usize;
                prop_assert_eq!(&part[..4 * drawn], &rows[row as usize][start..start + 4 * drawn]);
            }
            prop_assert!(part[4 * drawn..].iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn damage_covers_what_changes_and_is_far_from_all(
        width in side(), height in side(), serial in serial(), later in later(),
    ) {
        let next = serial.wrapping_add(later);
        let mut checksum = Checksum::of(TestCard::new(width, height, serial).expect("large"));
        let before = picture(checksum.card());
        let damage = checksum.advance(next);
        prop_assert_eq!(damage, checksum.card().damage(serial));
        let card = TestCard::new(width, height, next).expect("large");
        prop_assert_eq!(checksum.get(), Checksum::of(card).get());
        let after = picture(&card);
        let in_damage = |x: usize, y: usize| {
            let (x, y) = (u32::try_from(x).expect("small"), u32::try_from(y).expect("small"));
            let one = Rectangle { x, y, width: 1, height: 1 };
            damage.rectangles().iter().any(|all| !all.intersection(&one).is_empty())
        };
        let bounds = damage.rectangles().iter().all(|one| one.is_within(width, height));
        prop_assert!(bounds);
        for y in 0..height as usize {
            for x in 0..width as usize {
                prop_assert!(
                    pixel(&before, x, y) == pixel(&after, x, y) || in_damage(x, y),
                    "{x}, {y} changes outside the damage"
                );
            }
            // A torn picture shows it in any row: the sweep is everywhere.
            prop_assert!(before[y] != after[y] || later % 65536 == 0 || y == 0);
        }
    }

    #[test]
    fn a_mix_of_frames_is_found_out_wherever_the_seam_is(
        width in side(),
        height in side(),
        serial in serial(),
        later in later(),
        y in 0_usize..140,
        x in 0_usize..140,
        rows_only in any::<bool>(),
        only_one_row in any::<bool>(),
    ) {
        let next = serial.wrapping_add(later);
        let first = picture(&TestCard::new(width, height, serial).expect("large"));
        let second = picture(&TestCard::new(width, height, next).expect("large"));
        let y = y % height as usize;
        let x = if rows_only { 0 } else { x % width as usize };
        let mut mixed = first.clone();
        let end = if only_one_row { y + 1 } else { height as usize };
        for row in y..end {
            let start = if row == y { 4 * x } else { 0 };
            mixed[row][start..].copy_from_slice(&second[row][start..]);
        }
        let verdict = judge(width, height, &mixed);
        prop_assert_eq!(verdict.is_right, mixed == first || mixed == second);
    }

    #[test]
    fn a_single_wrong_pixel_is_found_out(
        width in side(),
        height in side(),
        serial in serial(),
        place in any::<(usize, usize)>(),
        bit in 0_u32..24,
    ) {
        let mut rows = picture(&TestCard::new(width, height, serial).expect("large"));
        let (x, y) = (place.0 % width as usize, place.1 % height as usize);
        rows[y][4 * x + bit as usize / 8] ^= 1 << (bit % 8);
        prop_assert!(!judge(width, height, &rows).is_right);
    }

    #[test]
    fn any_rows_are_judged_without_harm(
        width in any::<u32>(),
        height in any::<u32>(),
        small in any::<bool>(),
        rows in vec(vec(any::<u8>(), 0..600), 0..100),
    ) {
        let (width, height) = if small { (width % 150, height % 100) } else { (width, height) };
        prop_assert!(!judge(width, height, &rows).is_right);
    }
}

#[test]
fn rows_that_are_missing_repeated_or_of_another_picture_are_found_out() {
    let card = TestCard::new(100, 80, 5).expect("large enough");
    let rows = picture(&card);
    assert!(judge(100, 80, &rows).is_right);
    assert!(!judge(100, 80, &rows[..79]).is_right);
    assert!(!judge(100, 80, &[rows.as_slice(), &rows[79..]].concat()).is_right);
    let mut swapped = rows.clone();
    swapped.swap(30, 31);
    assert!(!judge(100, 80, &swapped).is_right);
    let mut shorter = rows.clone();
    shorter[3].truncate(396);
    assert!(!judge(100, 80, &shorter).is_right);
    assert!(!judge(100, 80, &vec![vec![0; 400]; 80]).is_right);
    // Right as rows, but of another size.
    let wide: Vec<_> = rows.chunks(2).map(<[Vec<u8>]>::concat).collect();
    assert!(!judge(200, 40, &wide).is_right);
}

#[test]
fn impossible_sizes_have_no_card() {
    for (width, height) in [(63, 64), (64, 63), (0, 0), (16385, 64), (64, u32::MAX)] {
        assert!(
            TestCard::new(width, height, 1).is_none(),
            "{width}×{height}"
        );
    }
    assert!(TestCard::new(64, 16384, u64::MAX).is_some());
}
