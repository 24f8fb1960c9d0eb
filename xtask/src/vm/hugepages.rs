//! Lets a VMM have huge pages without a reserved pool, by raising the host's overcommit limit while the VM lives.
//!
//! Several VMs add to the limit and take away only what they added. Refuses without root where too few are free, with
//! the command that an administrator would run.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::lock::Lock;

/// The bytes of one huge page here.
pub const HUGE_PAGE: u64 = 2 << 20;

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Makes sure that `count` huge pages can be had, and gives the number that was added to the limit.
pub fn provide(count: u64) -> Result<u64> {
    if !Path::new(POOL).is_dir() {
        bail!("this host has no 2 MiB huge pages, so --backing hugetlb is not possible");
    }
    let _lock = Lock::take("huge-pages")?;
    let limit = read("nr_overcommit_hugepages")?;
    let wanted = limit + count;
    let Err(error) = write(wanted) else {
        return Ok(count);
    };
    let free = read("free_hugepages")?.saturating_sub(read("resv_hugepages")?);
    if free + limit.saturating_sub(read("surplus_hugepages")?) >= count {
        return Ok(0);
    }
    Err(error).with_context(|| {
        format!(
            "--backing hugetlb needs {count} huge pages, and the host offers too few\nhint: sudo sh -c 'echo {wanted} >{POOL}/nr_overcommit_hugepages'"
        )
    })
}

/// Takes `count` huge pages off the limit again.
pub fn give_back(count: u64) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let _lock = Lock::take("huge-pages")?;
    write(read("nr_overcommit_hugepages")?.saturating_sub(count))
}

/// One of the pool's numbers.
fn read(name: &str) -> Result<u64> {
    let path = format!("{POOL}/{name}");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{path} holds no number"))
}

/// Sets the limit of pages that may be allocated beyond the pool.
fn write(limit: u64) -> Result<()> {
    let path = format!("{POOL}/nr_overcommit_hugepages");
    std::fs::write(&path, limit.to_string()).with_context(|| format!("cannot write {path}"))
}
