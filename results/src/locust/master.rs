//! What Locust's master left: its final figures, and what its charts showed.
//!
//! Invariants: reads only; a file that is not there or not of this form is an error, never a zero.
//! Must not depend on: our own counts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use holdfast_report::locust::record::TableRow;

/// One second of the charts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Second {
    /// Unix time, seconds.
    pub at: u64,
    /// Users there were.
    pub users: u64,
    /// Requests a second, as the chart shows them.
    pub per_second: f64,
}

/// The final table, from `--json-file`.
///
/// # Errors
/// When there is none.
pub fn table(path: &Path) -> Result<Vec<TableRow>, String> {
    let say = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let text = fs::read(path).map_err(|e| say(&e))?;
    serde_json::from_slice(&text).map_err(|e| say(&e))
}

/// The charts, from the history of `--csv`.
///
/// # Errors
/// When there are none.
pub fn history(path: &Path) -> Result<Vec<Second>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(seconds(&text))
}

/// The rows of all requests together. Nothing in them is quoted but what a path might need, which
/// these rows do not have.
fn seconds(text: &str) -> Vec<Second> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    lines
        .filter_map(|line| {
            let row: BTreeMap<&str, &str> = names.iter().copied().zip(line.split(',')).collect();
            if *row.get("Name")? != "Aggregated" {
                return None;
            }
            Some(Second {
                at: row.get("Timestamp")?.parse().ok()?,
                users: row.get("User Count")?.parse().ok()?,
                per_second: row.get("Requests/s")?.parse().ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_are_the_aggregated_rows() {
        let text = "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%\n\
            1700000000,10,GET,/,5.0,0.0,3\n1700000000,10,,Aggregated,5.500000,0.0,3\nbroken\n";
        assert_eq!(
            seconds(text),
            [Second {
                at: 1_700_000_000,
                users: 10,
                per_second: 5.5
            }]
        );
    }

    #[test]
    fn table_of_the_master_is_read_and_a_missing_one_is_an_error() {
        let path = std::env::temp_dir().join(format!("holdfast-table-{}", std::process::id()));
        fs::write(
            &path,
            r#"[{"name":"connect","method":"TCP","num_requests":7,"num_failures":1,"more":{}}]"#,
        )
        .expect("writes");
        let rows = table(&path).expect("reads");
        assert_eq!(
            (rows[0].name.as_str(), rows[0].num_requests),
            ("connect", 7)
        );
        fs::remove_file(&path).expect("there");
        assert!(table(&path).is_err());
    }
}
