//! A VMM on KVM: after the swap the guest's stores appear in the file, and the host's stores in the guest.

use std::fs::File;
use std::os::unix::fs::FileExt;

use vmshm_graft::{Contents, GraftError, Piece, Region, graft, undo};
use vmshm_ram::{ProcRoot, VmmVirtual};
use vmshm_vm_tests::environment::{self, report};
use vmshm_vm_tests::kvm_machine::KvmMachine;
use vmshm_vm_tests::patience::{SOON, wait_for, wait_until};

const MEBIBYTES: u64 = 24;
/// Where the guest counts: the page, and what of the region lies before it.
const COUNTER: u64 = 0x2000;
/// The region's pages: the one with the counter and its neighbours, but not the code's.
const REGION: u64 = 0x4000;

#[test]
fn a_vmm_on_kvm_follows_to_the_file_and_back() {
    if !environment::is_set_up() {
        return;
    }
    for backing in ["anonymous", "memfd"] {
        let Some(machine) = KvmMachine::boot(backing, MEBIBYTES) else {
            return;
        };
        let pid = machine.pid();
        let region = region(pid, backing);
        let surely = |work: &mut dyn FnMut() -> Result<(), GraftError>| {
            wait_until("time for a graft", SOON, || match work() {
                Err(GraftError::Busy | GraftError::TooSlow { .. }) => None,
                result => Some(result),
            })
            .expect("grafted")
        };
        let mut made = None;
        surely(&mut || {
            made = Some(graft(pid, &region, Contents::Keep, &[], &mut |_| ())?);
            Ok(())
        });
        let made = made.expect("it is there");
        let file = File::from(made.file);
        let in_file = || read(&file, 0);
        let before = in_file();
        wait_for("store of the guest in the file", SOON, || {
            in_file() != before
        });
        // The guest counts on from what the host says. What it was just storing may overwrite that: said again then.
        let far = 1_u32 << 31;
        wait_for("store of the host in the guest", SOON, || {
            let now = in_file();
            if now.wrapping_sub(far) >= 1 << 30 {
                file.write_all_at(&far.to_le_bytes(), 0).expect("written");
                return false;
            }
            now != far
        });
        surely(&mut || undo(pid, &region, Contents::Keep, &[], &mut |_| ()).map(drop));
        let memory = File::open(format!("/proc/{pid}/mem")).expect("it may be read");
        let at = region.pieces[0].at.0;
        let (left, there) = (in_file(), read(&memory, at));
        assert!(
            there.wrapping_sub(left) < 1 << 30,
            "the count goes on from where it was"
        );
        wait_for("count in the VMM's own memory", SOON, || {
            read(&memory, at) != there
        });
        assert_eq!(in_file(), left, "nobody counts in the file any more");
        report(&format_args!("a VMM on KVM, {backing}: {:?}", made.pauses));
    }
}

fn read(file: &File, at: u64) -> u32 {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, at).expect("it is there");
    u32::from_le_bytes(bytes)
}

fn region(pid: u32, backing: &str) -> Region {
    let mappings = ProcRoot::system().mappings(pid).expect("it is there");
    let ram = mappings
        .iter()
        .filter(|mapping| mapping.shared == (backing == "memfd"))
        .filter(|mapping| mapping.writable && mapping.end().0 - mapping.start.0 >= MEBIBYTES << 20)
        .min_by_key(|mapping| mapping.length)
        .expect("it has RAM");
    // The kernel may have joined it with what lies below.
    let start = ram.end().0 - (MEBIBYTES << 20);
    Region {
        id: "kvm".to_owned(),
        size: REGION,
        pieces: vec![Piece {
            at: VmmVirtual(start + COUNTER),
            length: REGION,
            offset: 0,
        }],
    }
}
