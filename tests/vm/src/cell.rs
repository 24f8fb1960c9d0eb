//! The cells of the matrix of machines: boards, backings, sizes, and ways in which RAM is made of several pieces.
//!
//! Says how a cell is started and what is to be found; the machine itself is `machine`'s.

/// QEMU's machine types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Board {
    /// i440fx.
    Pc,
    /// Q35.
    Q35,
    /// The one without PCI.
    Microvm,
}

impl Board {
    const fn name(self) -> &'static str {
        match self {
            Self::Pc => "pc",
            Self::Q35 => "q35",
            Self::Microvm => "microvm",
        }
    }
}

/// What holds the RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backing {
    /// Plain `-m`.
    Private,
    /// A shared memfd.
    Memfd,
    /// A shared file.
    File,
    /// A file with `share=off`.
    PrivateFile,
    /// A shared memfd of huge pages.
    Hugetlb,
}

impl Backing {
    const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Memfd => "memfd",
            Self::File => "file",
            Self::PrivateFile => "private-file",
            Self::Hugetlb => "hugetlb",
        }
    }

    /// Whether another process can map it.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        !matches!(self, Self::Private | Self::PrivateFile)
    }

    /// How the library calls it.
    const fn described(self) -> &'static str {
        match self {
            Self::Private => "private memory",
            Self::Memfd => "memfd",
            Self::File => "shared file",
            Self::PrivateFile => "private mapping of a file",
            Self::Hugetlb => "hugetlb",
        }
    }
}

/// How the RAM is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// One piece.
    Whole,
    /// Two NUMA nodes: private memory of 1 GiB and a memfd of the rest, given in the wrong order.
    TwoNodes,
    /// One piece, and room for two DIMMs that are plugged while the guest runs.
    Slots,
}

/// A QEMU machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The machine type.
    pub board: Board,
    /// What holds the RAM; of `TwoNodes`, the first node's.
    pub backing: Backing,
    /// How much RAM it boots with.
    pub gib: u64,
    /// How that is put together.
    pub shape: Shape,
}

/// The first of two nodes.
const FIRST_NODE: u64 = 1;
/// The size of the DIMM that is plugged first.
pub const DIMM: u64 = 256 << 20;
/// The size of the one that is plugged while the agent runs.
pub const LATER_DIMM: u64 = 128 << 20;

impl Cell {
    /// A machine whose RAM is one piece.
    #[must_use]
    pub const fn new(board: Board, backing: Backing, gib: u64) -> Self {
        Self {
            board,
            backing,
            gib,
            shape: Shape::Whole,
        }
    }

    /// The RAM that it boots with, in bytes.
    #[must_use]
    pub const fn ram_bytes(self) -> u64 {
        self.gib << 30
    }

    /// Whether the host can map all of its RAM.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        self.backing.is_shared() && !matches!(self.shape, Shape::TwoNodes)
    }

    /// The blocks that are to be found, once a DIMM is plugged: length and backing.
    #[must_use]
    pub fn blocks(self) -> Vec<(u64, &'static str)> {
        let backing = self.backing.described();
        match self.shape {
            Shape::Whole => vec![(self.ram_bytes(), backing)],
            Shape::TwoNodes => vec![
                (FIRST_NODE << 30, backing),
                ((self.gib - FIRST_NODE) << 30, "memfd"),
            ],
            Shape::Slots => vec![(self.ram_bytes(), backing), (DIMM, "private memory")],
        }
    }

    pub(crate) fn label(self) -> String {
        let shape = match self.shape {
            Shape::Whole => "",
            Shape::TwoNodes => "-nodes",
            Shape::Slots => "-slots",
        };
        let (board, backing) = (self.board.name(), self.backing.name());
        format!("{board}-{backing}-{}g{shape}", self.gib)
    }

    pub(crate) const fn options(self) -> [(&'static str, &'static str); 2] {
        [
            ("--machine", self.board.name()),
            ("--backing", self.backing.name()),
        ]
    }

    /// QEMU's arguments for its shape.
    pub(crate) fn arguments(self) -> Vec<String> {
        let words: Vec<String> = match self.shape {
            Shape::Whole => Vec::new(),
            Shape::TwoNodes => vec![
                "-object".to_owned(),
                format!("memory-backend-ram,id=first,size={FIRST_NODE}G"),
                "-object".to_owned(),
                format!(
                    "memory-backend-memfd,id=second,size={}G,share=on",
                    self.gib - FIRST_NODE
                ),
                "-numa".to_owned(),
                "node,nodeid=1,memdev=second".to_owned(),
                "-numa".to_owned(),
                "node,nodeid=0,cpus=0,memdev=first".to_owned(),
            ],
            Shape::Slots => vec![
                "-m".to_owned(),
                format!("{}G,slots=2,maxmem={}G", self.gib, self.gib + 3),
            ],
        };
        words
    }
}
