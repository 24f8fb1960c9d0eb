//! What is handed to the caller: for each row the figures of every round, unjudged.
//!
//! A round measures ours, the floor and the peer one after the other, each for some milliseconds, so that a slow moment
//! hits all alike. Beside the figures stands how long the measured ends waited for a processor. `cargo xtask bench`
//! judges: it discards and takes medians.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::interruption;
use crate::processors::Processors;
use crate::waiting::Waiting;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Undisturbed rounds that are enough.
    pub rounds: usize,
    /// No round starts after so long, however few there were.
    pub at_most: Duration,
    /// A round is undisturbed when the measured ends waited no longer for a processor, as a share of the round.
    pub most_waiting: f64,
    /// How long one part of a round takes, about.
    pub part: Duration,
    /// Whether less shall be measured.
    pub quick: bool,
    /// Where the two ends run.
    pub processors: Processors,
}

/// One round's figures in the row's unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Round {
    /// Ours.
    pub ours: f64,
    /// The peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<f64>,
    /// The floor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// The slowest thousandth, where single messages were timed: ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours_p999: Option<f64>,
    /// The peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_p999: Option<f64>,
    /// The floor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_p999: Option<f64>,
    /// How long the measured ends waited for a processor, as a share of the round.
    pub waited: f64,
}

/// One row's rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// The row's name.
    pub name: &'static str,
    /// The unit of all figures.
    pub unit: &'static str,
    /// `lower` or `higher`.
    pub better: &'static str,
    /// What ours is compared with.
    pub peer_name: Option<&'static str>,
    /// All rounds, disturbed ones included.
    pub rounds: Vec<Round>,
    /// What else there is to say.
    pub additional: Map<String, Value>,
}

/// Calls `round` with its number until there are enough undisturbed rounds, or time is over.
pub fn rounds(
    plan: &Plan,
    waiting: &mut Waiting,
    mut round: impl FnMut(usize) -> Result<Round>,
) -> Result<Vec<Round>> {
    let start = Instant::now();
    let mut rounds = Vec::new();
    let mut undisturbed = 0;
    // The first warms caches and branch predictors, and is forgotten.
    round(0)?;
    while undisturbed < plan.rounds && (start.elapsed() < plan.at_most || rounds.is_empty()) {
        interruption::check()?;
        waiting.begin();
        let mut figures = round(rounds.len() + 1)?;
        figures.waited = waiting.share();
        undisturbed += usize::from(figures.waited <= plan.most_waiting);
        rounds.push(figures);
    }
    if rounds.iter().any(|round| !round.ours.is_finite()) {
        bail!("a round measured nothing");
    }
    Ok(rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rounds: usize) -> Plan {
        Plan {
            rounds,
            at_most: Duration::from_secs(3600),
            most_waiting: f64::INFINITY,
            part: Duration::ZERO,
            quick: true,
            processors: Processors {
                first: 0,
                second: 0,
            },
        }
    }

    #[test]
    fn the_first_round_is_not_counted() {
        let mut waiting = Waiting::of(Vec::new());
        let measured = rounds(&plan(3), &mut waiting, |number| {
            Ok(Round {
                ours: number as f64,
                ..Round::default()
            })
        })
        .expect("measured");
        let ours: Vec<f64> = measured.iter().map(|round| round.ours).collect();
        assert_eq!(ours, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_figure_that_is_none_is_an_error() {
        let mut waiting = Waiting::of(Vec::new());
        let measured = rounds(&plan(1), &mut waiting, |_| {
            Ok(Round {
                ours: f64::NAN,
                ..Round::default()
            })
        });
        assert!(measured.is_err());
    }
}
