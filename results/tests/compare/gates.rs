//! Thresholds in a file.

use serde_json::Value;

use super::common::assert_refused;
use super::*;

#[test]
fn gates_decide_and_bad_ones_are_refused() {
    let runs = Runs::new("gates");
    runs.side("before", 5, 1, |_| {});
    runs.side("after", 5, 2, |r| r.ramp.per_second *= 0.92);
    let with = |rule: &str, code: i32| {
        let gate = runs.file("gate.toml", &format!("[[metric]]\n{rule}\n"));
        stdout(&runs.compares(&["before", "after", "--gate", &gate], code))
    };
    with("name = 'ramp.per_second'\nworse_percent_max = 12", 0);
    assert!(with("name = 'ramp.per_second'\nworse_percent_max = 5", 1).contains("5% allowed"));
    with("name = 'ramp.per_second'\nmin = 1000", 0);
    assert!(with("name = 'ramp.per_second'\nmin = 1000000", 1).contains("is below 1000000"));
    assert!(with("name = 'memory.*'\nmax = 10", 1).contains("memory.slab_bytes_per_pair"));
    with("name = 'memory.*'\nmax = 100000", 0);
    // Nothing became slower in the other figures, and noise alone breaks no threshold.
    with("name = 'cpu.server_seconds'\nworse_percent_max = 0", 0);
    with(
        "name = 'ramp.per_second'\nbetter = 'lower'\nworse_percent_max = 0",
        0,
    );
    let output = runs.bench(&[
        "compare",
        "before",
        "after",
        "--json",
        "--gate",
        &runs.file(
            "gate.toml",
            "[[metric]]\nname = 'ramp.*'\nworse_percent_max = 5\n",
        ),
    ]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&json["outcome"], &json["gates"][0]["is_met"]),
        (&"regression".into(), &false.into())
    );

    for (text, words) in [
        ("", "missing field `metric`"),
        ("metric = []", "no [[metric]]"),
        ("[[metric]", "TOML parse error"),
        (
            "[[metric]]\nname = 'ramp.per_second'",
            "neither worse_percent_max",
        ),
        (
            "[[metric]]\nname = 'ramp.per_second'\nworst = 5",
            "unknown field",
        ),
        (
            "[[metric]]\nname = 'ramp.per_second'\nworse_percent_max = -5",
            "negative percentage",
        ),
        (
            "[[metric]]\nname = 'ramp.per_second'\nworse_percent_max = 'five'",
            "invalid type",
        ),
        (
            "[[metric]]\nname = 'ramp.per_secnd'\nworse_percent_max = 5",
            "no figure of these runs is called \"ramp.per_secnd\"",
        ),
        (
            "[[metric]]\nname = 'messages.per_second'\nworse_percent_max = 5",
            "which way is better",
        ),
    ] {
        let gate = runs.file("bad.toml", text);
        assert_refused(
            &runs.bench(&["compare", "before", "after", "--gate", &gate]),
            words,
        );
    }
    assert_refused(
        &runs.bench(&["compare", "before", "after", "--gate", "/nowhere"]),
        "the gate /nowhere",
    );
}
