//! A VMM that nobody knows, found by the KVM virtual machine that it holds, and read while its processor runs.

use vmshm_vm_tests::environment;
use vmshm_vm_tests::kvm_machine::KvmMachine;
use vmshm_vm_tests::patience::{SOON, wait_for, wait_until};
use vmshm_vm_tests::program::vmshm;

const MEBIBYTES: u64 = 24;
/// Where the guest counts.
const COUNTER: &str = "0x2000";

#[test]
fn any_holder_of_a_kvm_machine_is_found_and_read_while_it_runs() {
    if !environment::is_set_up() {
        return;
    }
    for (backing, shared, access) in [("memfd", "shared", "map"), ("anonymous", "private", "copy")]
    {
        let Some(machine) = KvmMachine::boot(backing, MEBIBYTES) else {
            return;
        };
        let pid = machine.pid();
        let entry = wait_until("machine in the list", SOON, || {
            let listed = vmshm(["list", "--json"]).run().json();
            let all = listed.as_array().expect("an array").clone();
            all.into_iter().find(|entry| entry["pid"] == pid)
        });
        assert_eq!(entry["vmm"], "kvm", "{entry}");
        assert_eq!(entry["name"], format!("kvm-{pid}"));
        assert_eq!(entry["ram_bytes"], MEBIBYTES << 20);
        assert_eq!(entry["backing"], shared);
        assert_eq!(entry["access"], access);
        let selector = format!("kvm:kvm-{pid}");
        let count = || {
            let outcome = vmshm(["read", &selector, COUNTER, "4"]).run();
            // Nothing is known of this machine, and that is said.
            assert!(outcome.errors.contains("a guess"), "{}", outcome.errors);
            outcome.success()
        };
        let before = count();
        assert_eq!(before.len(), 4);
        wait_for("counter that moves", SOON, || count() != before);
        // What is not proved is not written.
        let refused = vmshm(["write", &selector, COUNTER, "--hex", "00"]).run();
        let _ = refused.refused(&["cannot be proved"]);
        let inspected = vmshm(["doctor", &selector]).run().text();
        assert!(
            inspected.contains(&format!("  {access}: yes")),
            "{inspected}"
        );
    }
}
