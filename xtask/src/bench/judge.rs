//! From the figures of all rounds to one row: which rounds count, and what they say.
//!
//! The rule: a round is discarded when the measured ends waited for a processor, or had one taken away by the machine's
//! own host, for more than [`MOST_WAITING`] of it. Where fewer than [`AT_LEAST`] rounds would remain, that many remain
//! that waited least. A figure is the median over the remaining rounds, a ratio the median of each round's ratio.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest wait of a round that counts, as a share of it.
pub const MOST_WAITING: f64 = 0.01;

/// Rounds that remain in any case.
pub const AT_LEAST: usize = 5;

/// One row as the measuring program prints it.
#[derive(Clone, Debug, Deserialize)]
pub struct Measurement {
    name: String,
    unit: String,
    better: String,
    peer_name: Option<String>,
    rounds: Vec<Round>,
    additional: Map<String, Value>,
}

/// One round's figures.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Round {
    ours: f64,
    peer: Option<f64>,
    floor: Option<f64>,
    ours_p999: Option<f64>,
    peer_p999: Option<f64>,
    floor_p999: Option<f64>,
    waited: f64,
}

/// One row as it is shown and written to the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The unit of ours, peer and floor; of latencies it is ns, one way.
    pub unit: String,
    /// `lower` or `higher`.
    pub better: String,
    /// Ours.
    pub ours: f64,
    /// Who the peer is, if there is one.
    pub peer_name: Option<String>,
    /// The peer's figure.
    pub peer: Option<f64>,
    /// The floor's figure.
    pub floor: Option<f64>,
    /// Ours ÷ the peer's.
    pub ratio_to_peer: Option<f64>,
    /// Ours ÷ the floor's.
    pub ratio_to_floor: Option<f64>,
    /// Rounds that count.
    pub rounds: usize,
    /// Rounds that do not.
    pub discarded: usize,
    /// Of those that count, how many were disturbed, too: none unless most were.
    pub disturbed: usize,
    /// The slowest thousandth of single messages: ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours_p999: Option<f64>,
    /// The peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_p999: Option<f64>,
    /// The floor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_p999: Option<f64>,
    /// Ours ÷ the floor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_ratio_to_floor: Option<f64>,
    /// What else there is to say.
    #[serde(flatten)]
    pub additional: Map<String, Value>,
}

/// Discards rounds and takes medians.
pub fn judge(measured: Measurement) -> Result<Row> {
    ensure!(
        !measured.rounds.is_empty(),
        "{} has no rounds",
        measured.name
    );
    let all = measured.rounds.len();
    let kept = undisturbed(measured.rounds);
    let of = |figure: fn(&Round) -> Option<f64>| median(kept.iter().filter_map(figure).collect());
    let ratio = |one: fn(&Round) -> Option<f64>, other: fn(&Round) -> Option<f64>| {
        let ratios = kept.iter().filter_map(|round| {
            let (one, other) = one(round).zip(other(round))?;
            (other > 0.0).then_some(one / other)
        });
        median(ratios.collect())
    };
    let ours: fn(&Round) -> Option<f64> = |round| Some(round.ours);
    Ok(Row {
        ours: of(ours).unwrap_or(f64::NAN),
        peer: of(|round| round.peer),
        floor: of(|round| round.floor),
        ratio_to_peer: ratio(ours, |round| round.peer),
        ratio_to_floor: ratio(ours, |round| round.floor),
        rounds: kept.len(),
        discarded: all - kept.len(),
        disturbed: kept
            .iter()
            .filter(|round| round.waited > MOST_WAITING)
            .count(),
        ours_p999: of(|round| round.ours_p999),
        peer_p999: of(|round| round.peer_p999),
        floor_p999: of(|round| round.floor_p999),
        p999_ratio_to_floor: ratio(|round| round.ours_p999, |round| round.floor_p999),
        name: measured.name,
        unit: measured.unit,
        better: measured.better,
        peer_name: measured.peer_name,
        additional: measured.additional,
    })
}

/// The rounds that count.
fn undisturbed(mut rounds: Vec<Round>) -> Vec<Round> {
    rounds.sort_by(|one, other| one.waited.total_cmp(&other.waited));
    let quiet = rounds
        .iter()
        .filter(|round| round.waited <= MOST_WAITING)
        .count();
    rounds.truncate(quiet.max(AT_LEAST));
    rounds
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (below, above) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some((values.get(below)? + values.get(above)?) / 2.0)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// A row of these rounds: (ours, peer, waited).
    pub fn row(rounds: &[(f64, f64, f64)]) -> Row {
        let rounds: Vec<Value> = rounds
            .iter()
            .map(|(ours, peer, waited)| json!({"ours": ours, "peer": peer, "waited": waited}))
            .collect();
        let measured = json!({
            "name": "ring-u64", "unit": "M records/s", "better": "higher", "peer_name": "rtrb",
            "rounds": rounds, "additional": {"capacity_records": 4096},
        });
        judge(serde_json::from_value(measured).expect("a measurement")).expect("judged")
    }

    #[test]
    fn the_ratio_is_the_median_of_ratios_and_not_the_ratio_of_medians() {
        let judged = row(&[
            (1.0, 2.0, 0.0),
            (9.0, 10.0, 0.0),
            (5.0, 4.0, 0.0),
            (3.0, 3.0, 0.0),
            (8.0, 16.0, 0.0),
        ]);
        // Ratios 0.5, 0.9, 1.25, 1, 0.5; medians 5 and 4.
        assert_eq!(judged.ratio_to_peer, Some(0.9));
        assert_eq!((judged.ours, judged.peer), (5.0, Some(4.0)));
        assert_eq!((judged.floor, judged.ratio_to_floor), (None, None));
    }

    #[test]
    fn disturbed_rounds_are_discarded_and_counted() {
        let quiet = [(1.0, 1.0, 0.0); 6];
        let disturbed = [(100.0, 1.0, 0.011), (100.0, 1.0, 0.5)];
        let judged = row(&[&quiet[..], &disturbed].concat());
        assert_eq!((judged.rounds, judged.discarded), (6, 2));
        assert_eq!((judged.ours, judged.disturbed), (1.0, 0));
        assert_eq!(row(&[(1.0, 1.0, MOST_WAITING); 7]).rounds, 7);
    }

    #[test]
    fn the_least_disturbed_remain_when_all_were_disturbed() {
        let rounds: Vec<_> = (1..=20)
            .map(|number| (f64::from(number), 1.0, f64::from(number)))
            .collect();
        let judged = row(&rounds);
        assert_eq!((judged.rounds, judged.discarded), (AT_LEAST, 15));
        assert_eq!(judged.disturbed, AT_LEAST);
        assert_eq!(judged.ours, 3.0);
        // Fewer than that are all there is.
        assert_eq!(row(&rounds[..2]).rounds, 2);
    }

    #[test]
    fn a_row_has_the_stated_fields() {
        let value = serde_json::to_value(row(&[(3.0, 2.0, 0.0)])).expect("JSON");
        let expected = json!({
            "name": "ring-u64", "unit": "M records/s", "better": "higher",
            "ours": 3.0, "peer_name": "rtrb", "peer": 2.0, "floor": null,
            "ratio_to_peer": 1.5, "ratio_to_floor": null, "rounds": 1, "discarded": 0, "disturbed": 0,
            "capacity_records": 4096,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn no_rounds_are_an_error() {
        let measured = json!({
            "name": "x", "unit": "ns", "better": "lower", "peer_name": null,
            "rounds": [], "additional": {},
        });
        let measured: Measurement = serde_json::from_value(measured).expect("a measurement");
        assert!(judge(measured).is_err());
    }

    #[test]
    fn medians_of_even_counts_lie_between() {
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
