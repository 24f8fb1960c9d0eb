//! What `vmshm display` says: the list of screens, and statistics. It measures nothing.

use std::time::Duration;

use serde_json::{Value, json};
use vmshm_channel::sink::Stats;
use vmshm_host::display::{Listing, RelayCounts, Screen, mode_words};
use vmshm_ram::Method;

use crate::output;

/// The list for scripts.
pub(crate) fn list_json(listing: &Listing) -> String {
    let screens = listing.screens.iter().enumerate();
    let array: Vec<Value> = screens
        .map(|(number, screen)| {
            json!({
                "number": number,
                "name": screen.name,
                "mode": {
                    "width": screen.mode.width,
                    "height": screen.mode.height,
                    "refresh_hz": f64::from(screen.mode.refresh_millihertz) / 1000.0,
                },
                "scale": thousandths(screen.scale_thousandths),
                "source": screen.source,
                "input": screen.abilities.input,
                "set_mode": screen.abilities.set_mode,
                "may_tear": screen.abilities.may_tear,
            })
        })
        .collect();
    format!("{:#}\n", Value::from(array))
}

/// The list for people.
pub(crate) fn list_text(listing: &Listing) -> String {
    let heading = ["SCREEN", "NAME", "MODE", "SCALE", "SOURCE", "ABILITIES"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let screens = listing.screens.iter().enumerate();
    rows.extend(screens.map(|(number, screen)| {
        vec![
            number.to_string(),
            screen.name.clone(),
            mode_words(&screen.mode),
            thousandths(screen.scale_thousandths).to_string(),
            screen.source.clone(),
            abilities(screen),
        ]
    }));
    output::table(&rows)
}

fn thousandths(number: u64) -> f64 {
    number as f64 / 1000.0
}

fn abilities(screen: &Screen) -> String {
    let abilities = &screen.abilities;
    let words = [
        (abilities.input, "input"),
        (abilities.input_forbidden, "input forbidden"),
        (abilities.set_mode, "modes"),
        (abilities.added, "added"),
        (abilities.may_tear, "may tear"),
    ];
    let words: Vec<_> = words
        .into_iter()
        .filter_map(|(has, word)| has.then_some(word))
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(", ")
    }
}

/// What this process did while the monitor counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Own {
    /// Its processor time.
    pub(crate) processor: Duration,
    /// Its relay.
    pub(crate) relay: RelayCounts,
}

impl Own {
    /// What came to be since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let (now, then) = (&self.relay, &before.relay);
        Self {
            processor: self.processor.saturating_sub(before.processor),
            // A relay that was made anew counts from nothing.
            relay: RelayCounts {
                frames: now.frames.checked_sub(then.frames).unwrap_or(now.frames),
                copied_bytes: now
                    .copied_bytes
                    .checked_sub(then.copied_bytes)
                    .unwrap_or(now.copied_bytes),
                retaken: now.retaken.checked_sub(then.retaken).unwrap_or(now.retaken),
            },
        }
    }
}

/// One line of statistics.
pub(crate) fn stats_line(stats: &Stats, own: &Own) -> String {
    let over = Duration::from_nanos(stats.over_nanos.max(1));
    let share = |time: Duration| time.as_secs_f64() / over.as_secs_f64() * 100.0;
    let rate = stats.frames as f64 / over.as_secs_f64();
    let touched = stats
        .copied_bytes
        .saturating_add(stats.source_bytes)
        .saturating_add(own.relay.copied_bytes);
    let ratio = if stats.damage_bytes == 0 {
        "-".to_owned()
    } else {
        format!("{:.2}x", touched as f64 / stats.damage_bytes as f64)
    };
    let copies = if own.relay.frames > 0 { 2 } else { 1 };
    let torn = stats.retaken + own.relay.retaken;
    format!(
        "{rate:.1} frames/s, {} skipped, {torn} retaken{}; age p50/p99: capture {}, copy {}, present {}, back {}; touched {} = {ratio} damage in {copies} cop{}; processor: monitor {:.1} %, vmshm {:.1} %",
        stats.skipped,
        if stats.wrong > 0 {
            format!(", {} WRONG", stats.wrong)
        } else {
            String::new()
        },
        durations(stats.capture),
        durations(stats.copy),
        durations(stats.present),
        durations(stats.acknowledged),
        output::size(touched),
        if copies == 1 { "y" } else { "ies" },
        share(Duration::from_nanos(stats.cpu_nanos)),
        share(own.processor),
    )
}

fn durations((median, tail): (u64, u64)) -> String {
    format!("{}/{}", duration(median), duration(tail))
}

fn duration(nanos: u64) -> String {
    match nanos {
        0 => "-".to_owned(),
        1..10_000 => format!("{nanos} ns"),
        10_000..10_000_000 => format!("{} µs", nanos / 1000),
        _ => format!("{} ms", nanos / 1_000_000),
    }
}

/// Statistics of several spans as one. Counts are summed; of medians the middle one counts,
/// of tails the longest.
pub(crate) fn summed(parts: &[Stats]) -> Stats {
    let sum = |of: fn(&Stats) -> u64| parts.iter().map(of).fold(0, u64::saturating_add);
    let pair = |of: fn(&Stats) -> (u64, u64)| {
        let mut medians: Vec<u64> = parts
            .iter()
            .filter(|part| part.frames > 0)
            .map(|part| of(part).0)
            .collect();
        medians.sort_unstable();
        let median = medians.get(medians.len() / 2).copied().unwrap_or(0);
        let tail = parts.iter().map(|part| of(part).1).max().unwrap_or(0);
        (median, tail)
    };
    Stats {
        over_nanos: sum(|part| part.over_nanos),
        frames: sum(|part| part.frames),
        skipped: sum(|part| part.skipped),
        retaken: sum(|part| part.retaken),
        wrong: sum(|part| part.wrong),
        damage_bytes: sum(|part| part.damage_bytes),
        copied_bytes: sum(|part| part.copied_bytes),
        source_bytes: sum(|part| part.source_bytes),
        capture: pair(|part| part.capture),
        copy: pair(|part| part.copy),
        present: pair(|part| part.present),
        acknowledged: pair(|part| part.acknowledged),
        cpu_nanos: sum(|part| part.cpu_nanos),
    }
}

/// Statistics for scripts: times in nanoseconds.
pub(crate) fn stats_json(stats: &Stats, own: &Own, method: Method) -> String {
    let times = |(median, tail): (u64, u64)| json!({"p50": median, "p99": tail});
    let value = json!({
        "method": method.to_string(),
        "over_ns": stats.over_nanos,
        "frames": stats.frames,
        "skipped": stats.skipped,
        "retaken": stats.retaken,
        "wrong": stats.wrong,
        "damage_bytes": stats.damage_bytes,
        "copied_bytes": stats.copied_bytes,
        "source_bytes": stats.source_bytes,
        "relay_bytes": own.relay.copied_bytes,
        "relay_retaken": own.relay.retaken,
        "capture_ns": times(stats.capture),
        "copy_ns": times(stats.copy),
        "present_ns": times(stats.present),
        "acknowledged_ns": times(stats.acknowledged),
        "monitor_cpu_ns": stats.cpu_nanos,
        "vmshm_cpu_ns": u64::try_from(own.processor.as_nanos()).unwrap_or(u64::MAX),
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(frames: u64, median: u64) -> Stats {
        Stats {
            over_nanos: 1_000_000_000,
            frames,
            damage_bytes: 1000,
            copied_bytes: 1000,
            source_bytes: 50,
            copy: (median, median * 2),
            cpu_nanos: 10_000_000,
            ..Stats::default()
        }
    }

    #[test]
    fn a_line_says_what_was_touched_for_the_damage() {
        let own = Own {
            processor: Duration::from_millis(5),
            relay: RelayCounts::default(),
        };
        let line = stats_line(&part(60, 2000), &own);
        assert!(
            line.starts_with("60.0 frames/s, 0 skipped, 0 retaken;"),
            "{line}"
        );
        assert!(line.contains("copy 2000 ns/4000 ns"), "{line}");
        assert!(line.contains("1.05x damage in 1 copy"), "{line}");
        assert!(line.ends_with("monitor 1.0 %, vmshm 0.5 %"), "{line}");
        let nothing = stats_line(&Stats::default(), &own);
        assert!(nothing.contains("- damage"), "{nothing}");
    }

    #[test]
    fn spans_without_frames_say_nothing_of_durations() {
        let sum = summed(&[part(0, 0), part(60, 100), part(30, 300), part(0, 0)]);
        assert_eq!((sum.frames, sum.over_nanos), (90, 4_000_000_000));
        assert_eq!(sum.copy, (300, 600));
        assert_eq!(summed(&[]), Stats::default());
        let text = stats_json(&sum, &Own::default(), Method::Copy);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["copy_ns"]["p99"], 600);
        assert_eq!(value["method"], "copy");
    }
}
