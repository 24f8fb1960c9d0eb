//! `vmshm translate`: where a guest-physical address lies in the VMM's memory, and how
//! that is known. Reads no byte of what lies there.

use clap::Args;
use serde_json::json;
use vmshm_host::machines::{self, Subject};
use vmshm_host::physical::{Physical, PhysicalError};
use vmshm_link::GuestPhysical;
use vmshm_link::quantity::parse_number;
use vmshm_ram::{LayoutError, Location, RamBlock, VmmVirtual};

use crate::arguments::Global;
use crate::failure::Failure;
use crate::output;

/// What to translate.
#[derive(Debug, Args)]
pub(crate) struct Translate {
    /// Process number, name, vmm:name, or dump:FILE (dump:raw:FILE: raw, whatever it begins with)
    pub(crate) vm: String,
    /// Guest-physical address
    #[arg(value_name = "GPA", value_parser = parse_number)]
    pub(crate) address: u64,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs it.
pub(crate) fn run(translate: &Translate, global: &Global) -> Result<(), Failure> {
    let subject = machines::find_subject(&translate.vm)?;
    let physical = Physical::for_translating(&subject, &global.attach()?)?;
    let address = GuestPhysical(translate.address);
    let location = physical
        .layout()
        .translate(address)
        .map_err(PhysicalError::from)?;
    let block = physical.ram().block(location.at.block);
    let block = block.ok_or(PhysicalError::Layout(LayoutError::Empty))?;
    let place = Place {
        address,
        location,
        block,
        pid: match &subject {
            Subject::Running(vmm) => Some(vmm.pid),
            Subject::Stored(_) => None,
        },
    };
    if translate.json {
        output::print(&format!("{:#}\n", place.json()))
    } else {
        output::print(&place.text())
    }
}

/// What is told of one address.
struct Place<'a> {
    address: GuestPhysical,
    location: Location,
    block: &'a RamBlock,
    /// The VMM's process; nothing for a stored dump.
    pid: Option<u32>,
}

impl Place<'_> {
    fn vmm_virtual(&self) -> Option<VmmVirtual> {
        let address = self.block.place()?.0.checked_add(self.location.at.offset)?;
        self.pid.map(|_| VmmVirtual(address))
    }

    fn file_offset(&self) -> Option<u64> {
        self.block.file?;
        self.block
            .file_offset()
            .checked_add(self.location.at.offset)
    }

    /// What lies behind the block.
    fn behind(&self) -> String {
        let label = output::plain(self.block.label());
        match (self.pid, self.block.name.is_empty()) {
            (None, _) => label.into_owned(),
            (Some(_), true) => self.block.backing.to_string(),
            (Some(_), false) => format!("{}, {label}", self.block.backing),
        }
    }

    fn text(&self) -> String {
        let mut rows = vec![
            ("guest-physical", self.address.to_string()),
            (
                "RAM block",
                format!("{} ({})", self.location.at.block, self.behind()),
            ),
            ("offset", format!("{:#x}", self.location.at.offset)),
        ];
        if let (Some(pid), Some(address)) = (self.pid, self.vmm_virtual()) {
            rows.push(("VMM-virtual", format!("{address} in process {pid}")));
        }
        if let Some(offset) = self.file_offset() {
            rows.push(("file offset", format!("{offset:#x}")));
        }
        rows.push(("known", self.location.source.to_string()));
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|(name, value)| vec![name.to_owned(), value])
            .collect();
        output::table(&rows)
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "gpa": self.address.0,
            "block": self.location.at.block,
            "label": self.block.label(),
            "backing": self.pid.map(|_| self.block.backing.to_string()),
            "offset": self.location.at.offset,
            "vmm_virtual": self.vmm_virtual().map(|address| address.0),
            "file_offset": self.file_offset(),
            "remaining": self.location.remaining,
            "source": self.location.source.name(),
            "known": self.location.source.to_string(),
        })
    }
}
