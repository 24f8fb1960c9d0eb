//! One test for each cell of the matrix. The ordinary run takes six boots that have every board, backing and size.

use vmshm_vm_tests::cell::Backing::{File, Hugetlb, Memfd, Private, PrivateFile};
use vmshm_vm_tests::cell::Board::{Microvm, Pc, Q35};
use vmshm_vm_tests::cell::{Cell, Shape};
use vmshm_vm_tests::environment::{self, is_root};
use vmshm_vm_tests::machine::Kind;

use crate::{plugging, reading, untouched};

macro_rules! cells {
    ($($(#[$attribute:meta])* $name:ident: $board:ident, $backing:ident, $gib:literal;)*) => {$(
        #[test]
        $(#[$attribute])*
        fn $name() {
            examine(Kind::Qemu(Cell::new($board, $backing, $gib)));
        }
    )*};
}

cells! {
    pc_private_1g: Pc, Private, 1;
    #[ignore = "long: boots another machine"]
    pc_private_6g: Pc, Private, 6;
    #[ignore = "long: boots another machine"]
    pc_memfd_1g: Pc, Memfd, 1;
    #[ignore = "long: boots another machine"]
    pc_memfd_6g: Pc, Memfd, 6;
    #[ignore = "long: boots another machine"]
    pc_file_1g: Pc, File, 1;
    #[ignore = "long: boots another machine"]
    pc_file_6g: Pc, File, 6;
    #[ignore = "long: boots another machine"]
    pc_private_file_1g: Pc, PrivateFile, 1;
    pc_private_file_6g: Pc, PrivateFile, 6;
    #[ignore = "long: boots another machine"]
    q35_private_1g: Q35, Private, 1;
    #[ignore = "long: boots another machine"]
    q35_private_6g: Q35, Private, 6;
    #[ignore = "long: boots another machine"]
    q35_memfd_1g: Q35, Memfd, 1;
    q35_memfd_6g: Q35, Memfd, 6;
    #[ignore = "long: boots another machine"]
    q35_file_1g: Q35, File, 1;
    #[ignore = "long: boots another machine"]
    q35_file_6g: Q35, File, 6;
    #[ignore = "long: boots another machine"]
    q35_private_file_1g: Q35, PrivateFile, 1;
    #[ignore = "long: boots another machine"]
    q35_private_file_6g: Q35, PrivateFile, 6;
    #[ignore = "long: boots another machine"]
    microvm_private_1g: Microvm, Private, 1;
    #[ignore = "long: boots another machine"]
    microvm_private_6g: Microvm, Private, 6;
    #[ignore = "long: boots another machine"]
    microvm_memfd_1g: Microvm, Memfd, 1;
    #[ignore = "long: boots another machine"]
    microvm_memfd_6g: Microvm, Memfd, 6;
    microvm_file_1g: Microvm, File, 1;
    #[ignore = "long: boots another machine"]
    microvm_file_6g: Microvm, File, 6;
    #[ignore = "long: boots another machine"]
    microvm_private_file_1g: Microvm, PrivateFile, 1;
    #[ignore = "long: boots another machine"]
    microvm_private_file_6g: Microvm, PrivateFile, 6;
}

#[test]
#[ignore = "long: boots another machine"]
fn two_nodes_of_different_backings() {
    examine(Kind::Qemu(Cell {
        shape: Shape::TwoNodes,
        ..Cell::new(Pc, Private, 4)
    }));
}

#[test]
fn dimms_are_plugged_while_the_guest_runs() {
    examine(Kind::Qemu(Cell {
        shape: Shape::Slots,
        ..Cell::new(Pc, Private, 1)
    }));
}

#[test]
#[ignore = "long: boots another machine"]
fn huge_pages() {
    if is_root() {
        examine(Kind::Qemu(Cell::new(Q35, Hugetlb, 1)));
    }
}

#[test]
fn user_mode_linux_of_1g() {
    examine(Kind::UmlOf(1024));
}

#[test]
#[ignore = "long: boots another machine"]
fn user_mode_linux_of_256m() {
    examine(Kind::UmlOf(256));
}

fn examine(kind: Kind) {
    if !environment::is_set_up() {
        return;
    }
    let machine = untouched::boot(kind);
    let has_slots = matches!(kind, Kind::Qemu(cell) if cell.shape == Shape::Slots);
    if has_slots {
        plugging::plug(&machine);
    }
    reading::without_and_with_the_agent(&machine);
    if has_slots {
        plugging::graft(&machine);
        plugging::plug_another(&machine);
    }
}
