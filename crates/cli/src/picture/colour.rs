//! The picture's colours: one for each way in which a range may be known, a scale for
//! how much of a place exists, and some that tell blocks and regions apart.

use vmshm_ram::Source;

use super::axis::whole;

pub(super) const PAPER: &str = "#fbfaf7";
pub(super) const INK: &str = "#1f2733";
pub(super) const FAINT: &str = "#6b7480";
pub(super) const EDGE: &str = "#39434f";
pub(super) const HOLE: &str = "#ece9e2";
pub(super) const HATCH: &str = "#d3cec3";
pub(super) const BEACON: &str = "#d0243c";

/// What tells blocks apart.
pub(super) fn of_block(block: usize) -> &'static str {
    const COLOURS: [&str; 6] = [
        "#7fa3cf", "#d9a566", "#86b98a", "#b08fc4", "#cf8f8f", "#7dbdbd",
    ];
    COLOURS.get(block % COLOURS.len()).copied().unwrap_or(FAINT)
}

/// What tells regions apart.
pub(super) fn of_region(region: usize) -> &'static str {
    const COLOURS: [&str; 6] = [
        "#e0592a", "#7d3fb5", "#b8860b", "#14866d", "#c2358a", "#3a62c9",
    ];
    COLOURS
        .get(region % COLOURS.len())
        .copied()
        .unwrap_or(FAINT)
}

/// How a range is known: green where it is proved, amber and red where it is not.
pub(super) fn of_source(source: Source) -> &'static str {
    match source {
        Source::Proved => "#1d8a4e",
        Source::Qmp => "#2667c9",
        Source::FirmwareTables => "#12909c",
        Source::GuestPageTables => "#6a53c4",
        Source::DumpHeaders => "#5d6b7a",
        Source::MachineRule => "#dd9420",
        _ => "#c8553d",
    }
}

/// From nothing to all of a place's pages.
pub(super) fn heat(share: f64) -> String {
    const NONE: [f64; 3] = [226.0, 232.0, 240.0];
    const ALL: [f64; 3] = [22.0, 52.0, 94.0];
    // Little is shown as more than it is, so that it is seen.
    let strength = share.clamp(0.0, 1.0).sqrt();
    let mut text = String::from("#");
    for (none, all) in NONE.iter().zip(ALL) {
        let level = whole((none + (all - none) * strength).round()).min(255);
        text.push_str(&format!("{level:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_ends_where_it_should_and_survives_odd_numbers() {
        assert_eq!(heat(0.0), "#e2e8f0");
        assert_eq!(heat(1.0), "#16345e");
        assert_eq!(heat(7.0), heat(1.0));
        assert_eq!(heat(f64::NAN).len(), 7);
    }
}
