//! Where runs of one test go, and how their records are read.

use std::fs;
use std::path::PathBuf;

use holdfast_report::network::Agreement;
use serde::de::DeserializeOwned;

/// A folder for runs, gone afterwards.
pub struct Runs(pub PathBuf);

impl Runs {
    pub fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("holdfast-network-{}-{name}", std::process::id())))
    }

    /// The record of the newest run.
    pub fn record<R: DeserializeOwned>(&self) -> R {
        let text = fs::read_to_string(self.0.join("latest/run.json")).expect("a record");
        serde_json::from_str(&text).expect("of this schema")
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What `who` counted of `what`.
#[track_caller]
pub fn counted(agreements: &[Agreement], what: &str, who: &str) -> u64 {
    let found = agreements.iter().find(|a| a.what == what);
    let agreement = found.unwrap_or_else(|| panic!("{what}: {agreements:?}"));
    *agreement
        .by
        .get(who)
        .unwrap_or_else(|| panic!("{who}: {agreement:?}"))
}
