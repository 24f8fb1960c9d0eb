//! Bochs with a boot sector of ours, for tests that must know what lies at every address.
//!
//! The boot sector needs no assembler and no operating system: it is written here byte by byte. It goes through the RAM
//! from its end downwards, so that Bochs, which hands out memory in the order of first touches, lays it out backwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::command_line::find;
use crate::environment::{report, skip};

/// What stands in front of each address that the boot sector writes.
pub const BRAND: [u8; 8] = *b"vmshm-bx";
/// Bochs hands out RAM in pieces of this many bytes.
pub const PIECE: u64 = 128 << 10;
/// Where in each piece a brand stands: in its second page and in its last.
pub const BRANDED: [u64; 2] = [0x1000, 0x1_f000];
/// A number that grows for as long as the machine runs, once all is branded.
pub const COUNTER: u64 = 0x1020;
/// Graphics memory and firmware: no RAM that the boot sector could write.
pub const NO_RAM: std::ops::Range<u64> = 0xa_0000..0x10_0000;

const FIRMWARE: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VIDEO: &str = "/usr/share/vgabios/vgabios.bin";
/// The floppy disk's size, which tells Bochs its format.
const FLOPPY: usize = 1440 << 10;

/// A running Bochs; it ends with its value.
#[derive(Debug)]
pub struct Bochs {
    /// Its process.
    pub pid: u32,
    child: Child,
    directory: PathBuf,
}

/// Starts Bochs with so many MiB of RAM; nothing where it is not installed, which is said.
///
/// # Panics
/// When it does not start.
#[must_use]
pub fn boot(mebibytes: u64) -> Option<Bochs> {
    let program = find("bochs-bin");
    let has_display = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            entry
                .path()
                .join("bochs/plugins/libbx_term_gui.so")
                .exists()
        });
    let firmware = [FIRMWARE, VIDEO];
    let is_whole = has_display && firmware.iter().all(|file| Path::new(file).exists());
    let Some(program) = program.filter(|_| is_whole) else {
        skip("Bochs is not installed (Debian: bochs, bochs-term, bochsbios, vgabios)");
        return None;
    };
    let directory =
        std::env::temp_dir().join(format!("vmshm-bochs-{}-{mebibytes}", std::process::id()));
    fs::create_dir_all(&directory).expect("there is room for a directory");
    let mut floppy = boot_sector(mebibytes << 20);
    floppy.resize(FLOPPY, 0);
    fs::write(directory.join("floppy.img"), floppy).expect("there is room for a floppy disk");
    // Its text display needs no network and no screen: it shows itself on a pseudo terminal of its own.
    let configuration = format!(
        "display_library: term\nmemory: guest={mebibytes}, host={mebibytes}\nromimage: file={FIRMWARE}\n\
         vgaromimage: file={VIDEO}\nfloppya: 1_44=floppy.img, status=inserted\nboot: floppy\nlog: log.txt\n"
    );
    fs::write(directory.join("bochsrc"), configuration).expect("it is writable");
    // Debian's Bochs has its debugger built in, which waits for a word.
    fs::write(directory.join("start"), "c\n").expect("it is writable");
    let child = Command::new(program)
        .args(["-q", "-f", "bochsrc", "-rc", "start"])
        .current_dir(&directory)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Bochs starts");
    report(&format_args!(
        "Bochs with {mebibytes} MiB is process {}",
        child.id()
    ));
    Some(Bochs {
        pid: child.id(),
        child,
        directory,
    })
}

impl Bochs {
    /// What it wrote into its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log.txt")).unwrap_or_default()
    }
}

impl Drop for Bochs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("Bochs's log:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Machine code with marks that are jumped to.
struct Code {
    bytes: Vec<u8>,
}

impl Code {
    /// Where the firmware loads a boot sector.
    const ORIGIN: usize = 0x7c00;

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn word(&mut self, number: u32) -> &mut Self {
        self.put(&number.to_le_bytes())
    }

    /// The address of the next byte.
    fn here(&self) -> usize {
        Self::ORIGIN + self.bytes.len()
    }

    /// A jump or call that ends here, over `distance` bytes of `size`, to `target`.
    fn back_to(&mut self, opcode: &[u8], target: usize) -> &mut Self {
        self.put(opcode);
        let distance = isize::try_from(target).expect("small")
            - isize::try_from(self.here() + 1).expect("small");
        self.put(&i8::try_from(distance).expect("a short jump").to_le_bytes())
    }
}

/// A sector that brands every piece of RAM from the last down to the first, and then counts.
fn boot_sector(ram_bytes: u64) -> Vec<u8> {
    let last = u32::try_from(ram_bytes - PIECE).expect("it fits below 4 GiB");
    let low = u32::from_le_bytes(BRAND[..4].try_into().expect("four bytes"));
    let high = u32::from_le_bytes(BRAND[4..].try_into().expect("four bytes"));
    let mut code = Code { bytes: Vec::new() };
    // jmp over the tables and the routine, which then have addresses that are known.
    code.put(&[0xeb, 0x00]);
    // The segments of protected mode: none, code, and data, both from 0 to 4 GiB and 32 bits wide.
    let table = code.here();
    code.put(&[0; 8])
        .put(&[0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0])
        .put(&[0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0]);
    // What lgdt reads: the table's length less one, and its address.
    let described = code.here();
    code.put(&[23, 0])
        .word(u32::try_from(table).expect("small"));
    // The routine that brands: eax is the address to write to and to state.
    let brand = code.here();
    code.put(&[0xc7, 0x00]).word(low); //          mov dword [eax], low
    code.put(&[0xc7, 0x40, 0x04]).word(high); //   mov dword [eax + 4], high
    code.put(&[0x89, 0x40, 0x08]); //              mov [eax + 8], eax
    code.put(&[0xc7, 0x40, 0x0c]).word(0); //      mov dword [eax + 12], 0
    code.put(&[0xc3]); //                          ret
    let start = code.here();
    code.bytes[1] = u8::try_from(start - Code::ORIGIN - 2).expect("a short jump");
    code.put(&[0xfa]); //                          cli
    code.put(&[0x31, 0xc0, 0x8e, 0xd8]); //        xor ax, ax; mov ds, ax
    code.put(&[0xe4, 0x92, 0x0c, 0x02, 0xe6, 0x92]); // in al, 0x92; or al, 2; out 0x92, al: odd MiB exist
    code.put(&[0x0f, 0x01, 0x16]); //              lgdt [described]
    code.put(&u16::try_from(described).expect("small").to_le_bytes());
    code.put(&[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0]); // mov eax, cr0; or al, 1; mov cr0, eax
    let protected = u16::try_from(code.here() + 5).expect("small");
    code.put(&[0xea])
        .put(&protected.to_le_bytes())
        .put(&[0x08, 0x00]); // jmp 8:protected
    code.put(&[0x66, 0xb8, 0x10, 0x00]); //        mov ax, 16: from here on code has 32 bits
    code.put(&[0x8e, 0xd8, 0x8e, 0xd0]); //        mov ds, ax; mov ss, ax
    code.put(&[0xbc]).word(0x7c00); //             mov esp, 0x7c00
    code.put(&[0xbf]).word(last); //               mov edi, last
    let piece = code.here();
    code.put(&[0x81, 0xff]).word(0xa_0000); //     cmp edi, 0xa0000
    code.put(&[0x72, 0x08]); //                    jb over the next two
    code.put(&[0x81, 0xff]).word(0x10_0000); //    cmp edi, 0x100000
    code.put(&[0x72, 0x00]); //                    jb next
    let skip = code.bytes.len();
    for place in BRANDED {
        code.put(&[0x8d, 0x87])
            .word(u32::try_from(place).expect("small")); // lea eax, [edi + place]
        let after = i32::try_from(code.here() + 5).expect("small");
        let target = i32::try_from(brand).expect("small");
        code.put(&[0xe8]).put(&(target - after).to_le_bytes()); // call brand
    }
    code.bytes[skip - 1] = u8::try_from(code.bytes.len() - skip).expect("a short jump");
    let step = u32::try_from(PIECE).expect("small");
    code.put(&[0x81, 0xef]).word(step); //         next: sub edi, a piece
    code.back_to(&[0x73], piece); //               jae piece: until it goes below zero
    let count = code.here();
    code.put(&[0xff, 0x05])
        .word(u32::try_from(COUNTER).expect("small")); // inc dword [counter]
    code.back_to(&[0xeb], count); //               jmp count
    let mut sector = code.bytes;
    assert!(sector.len() <= 510, "a boot sector has 512 bytes");
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}
