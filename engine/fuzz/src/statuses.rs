//! `--expect-status`: codes and classes.

use holdfast_client::http::response::parse_statuses;

/// Which of 0 to 999 are in the list, read once more; `None` if it is none.
fn expected(text: &str) -> Option<[bool; 1_000]> {
    let mut has = [false; 1_000];
    for part in text.split(',') {
        let part: Vec<char> = part.trim().chars().collect();
        let [first @ '2'..='9', second, third] = part[..] else {
            return None;
        };
        let digit = |c: char| c.to_digit(10).map(|digit| digit as usize);
        let hundreds = digit(first)? * 100;
        match (second, third) {
            ('x', 'x') => has[hundreds..hundreds + 100].fill(true),
            _ => has[hundreds + digit(second)? * 10 + digit(third)?] = true,
        }
    }
    Some(has)
}

/// Lists of statuses.
pub fn statuses(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let parsed = parse_statuses(text).ok();
    let expected = expected(text);
    assert_eq!(parsed.is_some(), expected.is_some(), "{text:?}");
    if let (Some(statuses), Some(expected)) = (parsed, expected) {
        for status in 100..=999 {
            let is_expected = expected[usize::from(status)];
            assert_eq!(statuses.has(status), is_expected, "{status} of {text:?}");
        }
    }
}
