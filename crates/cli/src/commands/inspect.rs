//! `vmshm inspect`: everything that looking at a VM or a stored dump tells, as text, as
//! JSON, or drawn. Only looks.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use vmshm_host::inspect::{self, BlockView, Identity, Inspection, RegionView};
use vmshm_host::machines::{self, Subject};
use vmshm_link::Extent;
use vmshm_ram::{Access, LayoutRange, Vmm};

use super::list::{agent_json, region_json};
use crate::arguments::Global;
use crate::failure::Failure;
use crate::output;
use crate::picture;
use crate::reaper::Reaper;

/// Extents of a region that are listed; the JSON has all.
const LISTED_EXTENTS: usize = 4;

/// Ranges and blocks that are listed; the JSON has all.
const LISTED_ROWS: usize = 2000;

/// What to inspect, and how to show it.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Process number, name, vmm:name, or dump:FILE (dump:raw:FILE: raw, whatever it begins with)
    pub(crate) vm: String,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw guest RAM to scale into this file (.svg or .png)
    #[arg(long, value_name = "FILE", value_parser = picture_path)]
    pub(crate) picture: Option<PathBuf>,
}

fn picture_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("svg" | "png") => Ok(path),
        _ => Err("a picture's file ends in .svg or .png".to_owned()),
    }
}

/// Runs it.
pub(crate) fn run(inspect: &Inspect, global: &Global) -> Result<(), Failure> {
    let subject = machines::find_subject(&inspect.vm)?;
    let options = global.attach()?;
    let reaper = match &subject {
        Subject::Running(vmm) => Some(Reaper::start(vmm, global)),
        Subject::Stored(_) => None,
    };
    let found = inspect::inspect(&subject, &options)?;
    drop(reaper);
    if let Some(path) = &inspect.picture {
        picture::save(&found, path)?;
        if !global.quiet {
            eprintln!("picture: {}", path.display());
        }
    }
    if inspect.json {
        return output::print(&format!("{:#}\n", as_json(&found)));
    }
    output::print(&as_text(&found))?;
    if !global.quiet {
        for note in &found.notes {
            eprintln!("note: {}", output::plain(&note.what));
            if let Some(hint) = &note.hint {
                eprintln!("hint: {}", output::plain(hint));
            }
        }
    }
    Ok(())
}

fn as_json(found: &Inspection) -> Value {
    let vmm = match &found.identity {
        Identity::Running(vmm) => Some(vmm),
        Identity::Stored { .. } => None,
    };
    let dump = match &found.identity {
        Identity::Stored { path, format } => Some(json!({
            "file": path.display().to_string(),
            "format": format.name(),
        })),
        Identity::Running(_) => None,
    };
    json!({
        "name": found.name,
        "pid": vmm.map(|vmm| vmm.pid),
        "vmm": vmm.map(|vmm| vmm.kind.to_string()),
        "dump": dump,
        "evidence": vmm.map(|vmm| evidence(vmm)),
        "access": vmm.map(|vmm| vmm.access().to_string()),
        "ram_bytes": found.ram_bytes,
        "blocks": found.blocks.iter().enumerate().map(|(index, block)| block_json(index, block, vmm.is_some())).collect::<Vec<_>>(),
        "layout": found.layout.ranges().iter().map(range_json).collect::<Vec<_>>(),
        "holes": holes(found).iter().map(extent_json).collect::<Vec<_>>(),
        "guest_os": found.guest_os,
        "agent": found.agent.as_ref().map(agent_json),
        "beacon": found.beacon.map(|address| address.0),
        "regions": found.regions.iter().map(with_extents).collect::<Vec<_>>(),
        "notes": found.notes.iter().map(|note| json!({"what": note.what, "hint": note.hint})).collect::<Vec<_>>(),
    })
}

fn evidence(vmm: &Vmm) -> Vec<String> {
    vmm.evidence.iter().map(ToString::to_string).collect()
}

fn block_json(index: usize, view: &BlockView, runs: bool) -> Value {
    let block = &view.block;
    json!({
        "block": index,
        "label": block.label(),
        "backing": runs.then(|| block.backing.to_string()),
        "size": block.length,
        "resident": view.resident,
        "vmm_virtual": block.place().filter(|_| runs).map(|place| place.0),
        "file_offset": block.file.map(|file| file.offset),
    })
}

fn range_json(range: &LayoutRange) -> Value {
    json!({
        "gpa": range.extent.start.0,
        "length": range.extent.length,
        "block": range.at.block,
        "offset": range.at.offset,
        "source": range.source.name(),
    })
}

fn extent_json(extent: &Extent) -> Value {
    json!({"gpa": extent.start.0, "length": extent.length})
}

fn with_extents(region: &RegionView) -> Value {
    let mut value = region_json(&region.entry);
    if let Value::Object(fields) = &mut value {
        let extents = region.extents.as_ref();
        let extents = extents.map(|extents| extents.iter().map(extent_json).collect::<Vec<_>>());
        fields.insert("extents".to_owned(), json!(extents));
    }
    value
}

/// What lies between ranges.
fn holes(found: &Inspection) -> Vec<Extent> {
    let between = |pair: &[LayoutRange]| {
        let [before, after] = pair else { return None };
        hole(before, after)
    };
    let pairs = found.layout.ranges().windows(2);
    pairs.filter_map(between).collect()
}

/// What lies between two ranges.
fn hole(before: &LayoutRange, after: &LayoutRange) -> Option<Extent> {
    let start = before.extent.end()?;
    let length = after.extent.start.0.checked_sub(start.0)?;
    (length > 0).then_some(Extent { start, length })
}

fn as_text(found: &Inspection) -> String {
    let mut text = String::new();
    head(&mut text, found);
    text.push_str("\nblocks\n");
    let mut rows = Vec::new();
    for (index, view) in found.blocks.iter().enumerate().take(LISTED_ROWS) {
        rows.push(block_row(index, view, &found.identity));
    }
    indented(&mut text, &rows);
    not_listed(&mut text, found.blocks.len(), "block");
    text.push_str("\nlayout\n");
    if found.layout.ranges().is_empty() {
        text.push_str("  not known\n");
    }
    indented(&mut text, &layout_rows(found));
    not_listed(&mut text, found.layout.ranges().len(), "range");
    let map = picture::map(found);
    if !map.is_empty() {
        let _ = write!(text, "\nmap\n{map}");
    }
    if !found.regions.is_empty() {
        text.push_str("\nregions\n");
        let rows: Vec<_> = found.regions.iter().map(region_row).collect();
        indented(&mut text, &rows);
    }
    text
}

fn head(text: &mut String, found: &Inspection) {
    let mut rows: Vec<(&str, String)> = Vec::new();
    match &found.identity {
        Identity::Running(vmm) => {
            rows.push(("name", output::plain(&vmm.name).into_owned()));
            rows.push(("VMM", format!("{}, process {}", vmm.kind, vmm.pid)));
            for (index, line) in evidence(vmm).into_iter().enumerate() {
                rows.push((if index == 0 { "because" } else { "" }, line));
            }
            rows.push(("access", vmm.access().to_string()));
        }
        Identity::Stored { path, format } => {
            rows.push((
                "dump",
                output::plain(&path.display().to_string()).into_owned(),
            ));
            rows.push(("format", format.to_string()));
        }
    }
    rows.push(("RAM", output::size(found.ram_bytes)));
    let unknown = || "not recognised".to_owned();
    let system = found
        .guest_os
        .as_deref()
        .map(|text| output::plain(text).into_owned());
    rows.push(("guest", system.unwrap_or_else(unknown)));
    if let Identity::Running(vmm) = &found.identity {
        let nothing = if vmm.access() == Access::None {
            "not known"
        } else {
            "none"
        };
        let agent = found.agent.as_ref().map_or_else(
            || nothing.to_owned(),
            |agent| {
                let version = agent
                    .version
                    .as_deref()
                    .map(|text| output::plain(text).into_owned());
                let version =
                    version.map_or_else(String::new, |version| format!(", version {version}"));
                let beacon = found
                    .beacon
                    .map_or_else(String::new, |at| format!(", beacon at {at}"));
                format!("{}{version}{beacon}", agent.state.name())
            },
        );
        rows.push(("agent", agent));
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    text.push_str(&output::table(&rows));
}

fn block_row(index: usize, view: &BlockView, identity: &Identity) -> Vec<String> {
    let block = &view.block;
    let resident = match (view.resident, picture::percent(view)) {
        (Some(bytes), Some(percent)) => format!("{} exist ({percent} %)", output::size(bytes)),
        _ => "residency not known".to_owned(),
    };
    let mut row = vec![index.to_string(), output::size(block.length), resident];
    match identity {
        Identity::Running(_) => {
            row.push(match block.place() {
                Some(place) => format!("at {place}"),
                None => "held by its handle".to_owned(),
            });
            row.push(block.backing.to_string());
            row.push(output::plain(&block.name).into_owned());
        }
        Identity::Stored { .. } => row.push(format!("from byte {:#x}", block.file_offset())),
    }
    row
}

/// The ranges, each with the hole behind it.
fn layout_rows(found: &Inspection) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut ranges = found.layout.ranges().iter().take(LISTED_ROWS).peekable();
    while let Some(range) = ranges.next() {
        rows.push(vec![
            addresses(&range.extent),
            output::size(range.extent.length),
            range.at.to_string(),
            range.source.to_string(),
        ]);
        if let Some(hole) = ranges.peek().and_then(|next| hole(range, next)) {
            rows.push(vec![
                addresses(&hole),
                output::size(hole.length),
                "hole".to_owned(),
            ]);
        }
    }
    rows
}

fn addresses(extent: &Extent) -> String {
    let end = extent.end().unwrap_or(extent.start);
    format!("{:#014x}-{:#014x}", extent.start.0, end.0)
}

/// Says how many more there are than are listed.
fn not_listed(text: &mut String, number: usize, thing: &str) {
    if let Some(more) = number.checked_sub(LISTED_ROWS).filter(|more| *more > 0) {
        let more = output::count(more, &format!("more {thing}"));
        let _ = writeln!(text, "  and {more}; `--json` lists all");
    }
}

fn region_row(region: &RegionView) -> Vec<String> {
    let entry = &region.entry;
    let places = region.extents.as_ref().map_or_else(String::new, |extents| {
        let shown = extents.iter().take(LISTED_EXTENTS);
        let mut places: Vec<String> = shown
            .map(|extent| format!("{}+{:#x}", extent.start, extent.length))
            .collect();
        if extents.len() > LISTED_EXTENTS {
            places.push(format!("and {} more", extents.len() - LISTED_EXTENTS));
        }
        places.join(", ")
    });
    vec![
        output::plain(entry.name.as_str()).into_owned(),
        entry.kind.name().to_owned(),
        output::size(entry.size),
        places,
    ]
}

fn indented(text: &mut String, rows: &[Vec<String>]) {
    for line in output::table(rows).lines() {
        let _ = writeln!(text, "  {line}");
    }
}
