//! 100 MiB through `vmshm pipe` both ways at once, with equal hashes at both ends.

use std::fmt::Write as _;
use std::io::{Read, Write};

use sha2::{Digest, Sha256};
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::patience::{LATER, wait_for};
use vmshm_windows_tests::configuration::Configuration;
use vmshm_windows_tests::stand_in::{QEMU, StandIn, VMWARE};
use vmshm_windows_tests::wine::Wine;

const MIB: u64 = 1 << 20;

#[test]
fn a_hundred_mebibytes_go_both_ways_through_a_named_section() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("pipe-named", 256);
    let name = r"Local\VMwareMem{pid}Memory";
    both_ways(
        &wine,
        VMWARE,
        &["--name", name, "--decoys", "2", &file.path()],
        100 * MIB,
    );
}

#[test]
fn a_hundred_mebibytes_go_both_ways_through_an_unnamed_section_with_a_hole() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::with_hole("pipe-unnamed", 256, Some(128));
    both_ways(&wine, VMWARE, &["--hole", "128", &file.path()], 100 * MIB);
}

#[test]
fn a_pipe_goes_through_private_memory_too() {
    let Some(wine) = Wine::set_up() else { return };
    let options = ["--private", "--", "-m", "256M"];
    both_ways(&wine, QEMU, &options, 8 * MIB);
}

fn both_ways(wine: &Wine, program: &str, options: &[&str], bytes: u64) {
    let mut vmm = StandIn::start(wine, program, options);
    vmm.tell(&format!("pipe p send {bytes}"));
    let mut pipe = wine.vmshm(["pipe", &format!("{}/p", vmm.pid)]).start();
    let mut input = pipe.stdin.take().expect("it is piped");
    let mut output = pipe.stdout.take().expect("it is piped");
    let sender = std::thread::spawn(move || {
        let mut hash = Sha256::new();
        let mut random = 7_u64;
        for _ in 0..bytes / MIB {
            let mut block = Vec::new();
            for _ in 0..MIB / 8 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                block.extend((random ^ random >> 31).to_le_bytes());
            }
            hash.update(&block);
            input.write_all(&block).expect("it listens");
        }
        hex(hash)
    });
    let receiver = std::thread::spawn(move || {
        let mut hash = Sha256::new();
        let mut count = 0_u64;
        let mut block = vec![0; 1 << 20];
        loop {
            match output.read(&mut block).expect("it talks") {
                0 => return (count, hex(hash)),
                length => {
                    count += length as u64;
                    hash.update(&block[..length]);
                }
            }
        }
    });
    let outcome = pipe.wait(LATER);
    let took = outcome.took;
    let _ = outcome.success();
    let sent = sender.join().expect("it sends all");
    let (count, received) = receiver.join().expect("it receives all");
    let mut said = String::new();
    wait_for("the guest's end", LATER, || {
        said = vmm.tell("pipe p state");
        said.starts_with("done") || said.starts_with("failed")
    });
    assert_eq!(count, bytes);
    assert_eq!(
        said,
        format!("done received={bytes} hash={sent} sent={bytes} hash={received}")
    );
    report(&format_args!(
        "{} MiB each way in {:.1} s, hashes {} and {}",
        bytes / MIB,
        took.as_secs_f64(),
        &sent[..12],
        &received[..12]
    ));
}

fn hex(hash: Sha256) -> String {
    let mut text = String::new();
    for byte in hash.finalize() {
        write!(text, "{byte:02x}").expect("a string takes it");
    }
    text
}
