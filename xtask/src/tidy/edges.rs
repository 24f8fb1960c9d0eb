//! The rule about dependencies between the project's packages: they point one way, by the table here.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;
use crate::{artifacts, command};

/// What each package may depend on, itself left out. A package that is not here is an error, so that a new room is put
/// into its place on purpose. Nothing may depend on a package that no line names: most tests, and xtask.
const ALLOWED: [(&str, &[&str]); 23] = [
    ("vmshm-shm", &[]),
    ("vmshm-link", &["vmshm-shm"]),
    ("vmshm-channel", &[]),
    ("vmshm-pipe", &["vmshm-link", "vmshm-shm"]),
    ("vmshm-endpoint", &["vmshm-link", "vmshm-shm"]),
    ("vmshm-ram", &["vmshm-link", "vmshm-shm"]),
    ("vmshm-graft", &["vmshm-ram", "vmshm-link", "vmshm-shm"]),
    (
        "vmshm-host",
        &[
            "vmshm-graft",
            "vmshm-ram",
            "vmshm-endpoint",
            "vmshm-channel",
            "vmshm-pipe",
            "vmshm-link",
            "vmshm-shm",
            // Its tests attach to one.
            "vmshm-played-guest",
        ],
    ),
    (
        "vmshm-guest",
        &["vmshm-endpoint", "vmshm-link", "vmshm-shm"],
    ),
    ("vmshm-examples", &["vmshm-host", "vmshm-guest"]),
    (
        "vmshm-bench",
        &[
            "vmshm-host",
            "vmshm-guest",
            "vmshm-endpoint",
            "vmshm-link",
            "vmshm-shm",
        ],
    ),
    (
        "vmshm-screens",
        &["vmshm-channel", "vmshm-link", "vmshm-shm"],
    ),
    (
        "vmshm-agent",
        &[
            "vmshm-screens",
            "vmshm-channel",
            "vmshm-pipe",
            "vmshm-link",
            "vmshm-shm",
        ],
    ),
    (
        "vmshm-monitor",
        &["vmshm-channel", "vmshm-link", "vmshm-shm"],
    ),
    (
        "vmshm-broker",
        &["vmshm-channel", "vmshm-host", "vmshm-link", "vmshm-shm"],
    ),
    (
        "vmshm-capi",
        &["vmshm-host", "vmshm-guest", "vmshm-link", "vmshm-shm"],
    ),
    (
        "vmshm",
        &[
            "vmshm-broker",
            "vmshm-host",
            "vmshm-channel",
            "vmshm-pipe",
            "vmshm-ram",
            "vmshm-link",
            "vmshm-shm",
        ],
    ),
    (
        "vmshm-vm-tests",
        &[
            "vmshm-host",
            // What no command can do: VMMs without an agent.
            "vmshm-graft",
            "vmshm-guest",
            "vmshm-endpoint",
            "vmshm-pipe",
            // A guest for VMMs that none boots in.
            "vmshm-played-guest",
            "vmshm-ram",
            "vmshm-link",
            "vmshm-shm",
        ],
    ),
    (
        "vmshm-played-guest",
        &["vmshm-pipe", "vmshm-link", "vmshm-shm"],
    ),
    (
        "vmshm-stand-in",
        &["vmshm-played-guest", "vmshm-link", "vmshm-shm"],
    ),
    ("vmshm-windows-tests", &["vmshm-vm-tests", "vmshm-link"]),
    (
        "vmshm-fuzz",
        &["vmshm-host", "vmshm-ram", "vmshm-link", "vmshm-shm"],
    ),
    ("xtask", &["vmshm-host", "vmshm-link"]),
];

/// Asks cargo for the packages and compares their dependencies, also those of tests, with the table.
pub fn check() -> Result<Vec<Finding>> {
    let text = command::output(artifacts::cargo().args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]))?;
    let metadata = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    Ok(compare(&metadata))
}

/// Compares cargo's description of the workspace with the table.
fn compare(metadata: &Value) -> Vec<Finding> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> = list(&metadata["packages"])
        .into_iter()
        .map(|package| (text(&package["name"]), package))
        .collect();
    let root = format!("{}/", text(&metadata["workspace_root"]));
    let mut findings = Vec::new();
    for (name, package) in &packages {
        let manifest = text(&package["manifest_path"]);
        let file = manifest.strip_prefix(&root).unwrap_or(&manifest);
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
            findings.push(Finding::new(
                file,
                1,
                format!("the package {name} has no place in tidy's table of dependencies"),
            ));
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let needed = text(&dependency["name"]);
            if packages.contains_key(&needed)
                && needed != *name
                && !allowed.contains(&needed.as_str())
            {
                findings.push(Finding::new(
                    file,
                    1,
                    format!("{name} may not depend on {needed}; see ARCHITECTURE.md"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn workspace(dependencies: &[(&str, &[&str])]) -> Value {
        let package = |(name, needs): &(&str, &[&str])| {
            let needs: Vec<Value> = needs.iter().map(|need| json!({ "name": need })).collect();
            json!({ "name": name, "manifest_path": format!("/c/crates/{name}/Cargo.toml"), "dependencies": needs })
        };
        json!({ "workspace_root": "/c", "packages": dependencies.iter().map(package).collect::<Vec<_>>() })
    }

    #[test]
    fn an_edge_against_the_direction_is_found() {
        let bad = workspace(&[
            ("vmshm-shm", &["serde"]),
            ("vmshm-link", &["vmshm-shm", "vmshm-ram"]),
            ("vmshm-ram", &["vmshm-link"]),
        ]);
        let findings = compare(&bad);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].file, "crates/vmshm-link/Cargo.toml");
        assert!(findings[0].message.contains("vmshm-ram"));
    }

    #[test]
    fn an_unknown_package_and_a_use_of_the_tests_are_found() {
        assert_eq!(compare(&workspace(&[("vmshm-attic", &[])])).len(), 1);
        assert_eq!(
            compare(&workspace(&[("xtask", &[]), ("vmshm-host", &["xtask"])])).len(),
            1
        );
    }

    #[test]
    fn no_room_is_below_itself() {
        for (name, allowed) in ALLOWED {
            for below in allowed {
                let back = ALLOWED
                    .iter()
                    .find(|(known, _)| known == below)
                    .expect("a known room");
                assert!(
                    !back.1.contains(&name),
                    "{name} and {below} need each other"
                );
            }
        }
    }
}
