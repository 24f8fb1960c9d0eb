//! The rows that can be measured, their goals, and the table that people read.

use anyhow::{Result, bail};
use serde_json::Value;

use super::judge::{AT_LEAST, MOST_WAITING, Row};

/// One row that can be asked for.
#[derive(Debug, PartialEq)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// Whether the VM of the links must run for it.
    pub needs_vm: bool,
    /// Whether it is about screens: then a program of its own measures it, and boots its VMs itself.
    pub is_display: bool,
    /// What was promised.
    goals: &'static [Goal],
}

/// One promise.
#[derive(Debug, PartialEq)]
struct Goal {
    what: What,
    /// The limit: a least value where more is better, else a greatest.
    limit: f64,
    at_most: bool,
}

/// What a promise is about.
#[derive(Debug, PartialEq)]
enum What {
    ToPeer,
    ToFloor,
    SlowestToFloor,
    Ours,
    BeyondFloor,
}

const fn at_most(what: What, limit: f64) -> Goal {
    Goal {
        what,
        limit,
        at_most: true,
    }
}

const fn at_least(what: What, limit: f64) -> Goal {
    Goal {
        what,
        limit,
        at_most: false,
    }
}

/// All rows, in the order in which they are measured and shown.
const ROWS: [Kind; 11] = [
    Kind {
        name: "one-way-64B",
        needs_vm: true,
        is_display: false,
        goals: &[
            at_most(What::ToFloor, 1.15),
            at_most(What::SlowestToFloor, 2.0),
        ],
    },
    Kind {
        name: "one-way-64B-host",
        needs_vm: false,
        is_display: false,
        goals: &[at_most(What::ToPeer, 0.5)],
    },
    Kind {
        name: "ring-u64",
        needs_vm: false,
        is_display: false,
        goals: &[at_least(What::ToPeer, 1.0)],
    },
    Kind {
        name: "ring-u64-batch",
        needs_vm: false,
        is_display: false,
        goals: &[at_least(What::ToPeer, 0.95)],
    },
    Kind {
        name: "stream-1GiB",
        needs_vm: false,
        is_display: false,
        goals: &[at_least(What::ToPeer, 0.95)],
    },
    Kind {
        name: "idle",
        needs_vm: true,
        is_display: false,
        goals: &[at_most(What::Ours, 1.0)],
    },
    display("display-latency", &[at_most(What::BeyondFloor, 100.0)]),
    display("display-torn", &[at_most(What::Ours, 0.0)]),
    display("display-bytes", &[at_most(What::Ours, 1.1)]),
    display("display-still", &[at_most(What::Ours, 1.0)]),
    display("display-vnc", &[at_most(What::ToPeer, 0.2)]),
];

const fn display(name: &'static str, goals: &'static [Goal]) -> Kind {
    Kind {
        name,
        needs_vm: false,
        is_display: true,
        goals,
    }
}

/// The name that stands for all rows about screens.
const DISPLAY: &str = "display";

/// The names for `--help`.
pub fn names_help() -> String {
    format!(
        "The rows to measure: {}; `{DISPLAY}` for all of them that begin so [default: all]",
        names()
    )
}

fn names() -> String {
    ROWS.map(|row| row.name).join(", ")
}

/// The rows of these names, each once; all without a name.
pub fn choose(names_wanted: &[String]) -> Result<Vec<&'static Kind>> {
    for wanted in names_wanted {
        if wanted != DISPLAY && !ROWS.iter().any(|row| row.name == wanted) {
            bail!(
                "there is no row '{wanted}' to measure\nhint: the rows are: {}",
                names()
            );
        }
    }
    let is_wanted = |row: &&Kind| {
        let by = |name: &String| name == row.name || (row.is_display && name == DISPLAY);
        names_wanted.is_empty() || names_wanted.iter().any(by)
    };
    Ok(ROWS.iter().filter(is_wanted).collect())
}

/// The table, with the goals, and below it the rule by which rounds were discarded.
pub fn table(rows: &[Row]) -> String {
    let heads = ["row", "unit", "ours", "peer", "floor", "goal", "", "rounds"];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    for row in rows {
        let kind = ROWS.iter().find(|kind| kind.name == row.name);
        let goals = kind.map(|kind| kind.goals).unwrap_or_default();
        let judged: Vec<(String, String)> = goals.iter().map(|goal| judge(goal, row)).collect();
        let mut first = true;
        for (goal, met) in judged {
            let mut line = vec![String::new(); heads.len()];
            if first {
                line = figures(row);
                first = false;
            }
            line[5] = goal;
            line[6] = met;
            lines.push(line);
        }
        if first {
            lines.push(figures(row));
        }
    }
    let mut text = aligned(&lines);
    for row in rows {
        if row.disturbed > 0 {
            text.push_str(&format!(
                "warning: of the {} rounds of {}, {} were disturbed by others, too: measure again on a quiet machine\n",
                row.rounds, row.name, row.disturbed
            ));
        }
        if let Some(name) = &row.peer_name {
            text.push_str(&format!("peer of {}: {name}\n", row.name));
        }
        for (name, value) in &row.additional {
            text.push_str(&additional(&row.name, name, value));
        }
    }
    text.push_str(&format!(
        "a round is discarded when its ends waited more than {} % of it for a processor; the {AT_LEAST} best remain anyway\n",
        MOST_WAITING * 100.0
    ));
    text
}

/// One line for a value, or for each of several: of an object its fields.
fn additional(row: &str, name: &str, value: &Value) -> String {
    match value {
        Value::Array(values) => values
            .iter()
            .map(|value| additional(row, name, value))
            .collect(),
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name} {}", plain(value)))
                .collect();
            format!("{row}: {name}: {}\n", fields.join(", "))
        }
        value => format!("{row}: {name} {}\n", plain(value)),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(value) if value.is_f64() => number(value.as_f64().unwrap_or(f64::NAN)),
        value => value.to_string(),
    }
}

fn figures(row: &Row) -> Vec<String> {
    let some = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    vec![
        row.name.clone(),
        row.unit.clone(),
        number(row.ours),
        some(row.peer),
        some(row.floor),
        String::new(),
        String::new(),
        format!("{} ({} discarded)", row.rounds, row.discarded),
    ]
}

/// The goal with what was reached, and whether that is enough.
fn judge(goal: &Goal, row: &Row) -> (String, String) {
    let (what, reached) = match goal.what {
        What::ToPeer => ("ours ÷ peer", row.ratio_to_peer),
        What::ToFloor => ("ours ÷ floor", row.ratio_to_floor),
        What::SlowestToFloor => ("p99.9 ÷ floor's p99.9", row.p999_ratio_to_floor),
        What::Ours => ("ours", Some(row.ours)),
        What::BeyondFloor => ("ours - floor", row.floor.map(|floor| row.ours - floor)),
    };
    let sign = if goal.at_most { '≤' } else { '≥' };
    let Some(reached) = reached else {
        return (
            format!("{what} {sign} {}", goal.limit),
            "not measured".to_owned(),
        );
    };
    let met = if goal.at_most {
        reached <= goal.limit
    } else {
        reached >= goal.limit
    };
    (
        format!("{what} {reached:.2} {sign} {}", goal.limit),
        if met { "met" } else { "NOT met" }.to_owned(),
    )
}

/// Three digits that say something.
fn number(value: f64) -> String {
    match value.abs() {
        hundreds if hundreds >= 100.0 => format!("{value:.0}"),
        tens if tens >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Columns side by side, two spaces between them.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| {
            let gap = width.saturating_sub(cell.chars().count());
            format!("{cell}{}", " ".repeat(gap))
        });
        let joined = cells.collect::<Vec<_>>().join("  ");
        text.push_str(joined.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::row;
    use super::*;

    #[test]
    fn an_unknown_row_is_refused_with_the_names_of_all() {
        let error = choose(&["ring-u64".to_owned(), "ring-u32".to_owned()]).expect_err("unknown");
        let text = error.to_string();
        for name in ["'ring-u32'", "one-way-64B-host", "stream-1GiB", "idle"] {
            assert!(text.contains(name), "{text}");
        }
        assert!(choose(&[String::new()]).is_err());
    }

    #[test]
    fn names_choose_rows_once_and_in_the_tables_order() {
        let wanted = ["idle", "ring-u64", "idle"].map(str::to_owned);
        let chosen: Vec<&str> = choose(&wanted)
            .expect("known")
            .iter()
            .map(|row| row.name)
            .collect();
        assert_eq!(chosen, ["ring-u64", "idle"]);
        assert_eq!(choose(&[]).expect("all").len(), ROWS.len());
        let displays = choose(&["display".to_owned()]).expect("known");
        assert!(displays.len() > 1 && displays.iter().all(|row| row.is_display));
    }

    #[test]
    fn the_table_says_whether_a_goal_is_met() {
        let good = table(&[row(&[(3.0, 2.0, 0.0)])]);
        assert!(good.contains("ours ÷ peer 1.50 ≥ 1  met"), "{good}");
        let bad = table(&[row(&[(1.0, 2.0, 0.0)])]);
        assert!(bad.contains("ours ÷ peer 0.50 ≥ 1  NOT met"), "{bad}");
        assert!(
            bad.contains("1 (0 discarded)") && bad.contains("rtrb"),
            "{bad}"
        );
    }
}
