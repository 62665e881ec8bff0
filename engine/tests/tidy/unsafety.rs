//! Unsafe code: where it may stand and what must stand above it.

use std::collections::BTreeSet;
use std::fs;

use super::Finding;
use super::source::{Source, Tree, find_word, has_word, root};

const LIST: &str = "docs/UNSAFE.md";

/// What each crate's root says: `deny` where listed files may allow it, `forbid` where none may.
const ROOTS: &[(&str, &str)] = &[
    ("memory/src/lib.rs", "#![deny(unsafe_code)]"),
    ("nvme/src/lib.rs", "#![deny(unsafe_code)]"),
    ("transport/src/lib.rs", "#![deny(unsafe_code)]"),
    ("engine/src/lib.rs", "#![forbid(unsafe_code)]"),
    ("engine/src/main.rs", "#![forbid(unsafe_code)]"),
];

/// Files with unsafe code that the list lacks, and the reverse. Tests count too.
pub fn listed(tree: &Tree) -> Vec<Finding> {
    let listed = listed_files();
    let found: BTreeSet<String> = tree
        .sources
        .iter()
        .filter(|s| has_word(&s.code, "unsafe"))
        .map(|s| s.path.clone())
        .collect();
    let missing = found.difference(&listed).map(|path| {
        format!(
            "{path}: has unsafe code; write it without, or list the file in {LIST} with its reason"
        )
    });
    let stale = listed
        .difference(&found)
        .map(|path| format!("{LIST}: {path} has no unsafe code (any more): take it off"));
    let undeclared = tree
        .sources
        .iter()
        .filter(|s| found.contains(&s.path) && !s.path.contains("/tests/"))
        .filter(|s| s.text.lines().next() != Some("#![allow(unsafe_code)]"))
        .map(|s| {
            format!("{}:1: the first line of a listed file is `#![allow(unsafe_code)]`", s.path)
        });
    missing.chain(stale).chain(undeclared).collect()
}

/// Files of the driver crates only: the first cell of each table row, in backquotes.
fn listed_files() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(LIST)).expect("docs/UNSAFE.md");
    let cell = |line: &str| {
        let cell = line.strip_prefix("| `")?.split('`').next()?;
        cell.ends_with(".rs").then(|| cell.to_owned())
    };
    text.lines().filter_map(cell).collect()
}

/// Blocks and impls without a reason.
pub fn justified(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        let text: Vec<&str> = source.text.lines().collect();
        let code: Vec<&str> = source.code.lines().collect();
        for (index, line) in code.iter().enumerate() {
            if needs_reason(line) && !has_reason(&text, &code, index) {
                findings.push(format!("{}:{}: no `// SAFETY:` above", source.path, index + 1));
            }
        }
    }
    findings
}

fn needs_reason(line: &str) -> bool {
    let Some(at) = find_word(line, "unsafe") else { return false };
    let rest = line[at + "unsafe".len()..].trim_start();
    rest.is_empty() || rest.starts_with('{') || rest.starts_with("impl")
}

/// Looks upwards from an unsafe block to the start of its statement and the comment above it.
fn has_reason(text: &[&str], code: &[&str], at: usize) -> bool {
    if text[at].contains("SAFETY:") {
        return true;
    }
    let mut index = at;
    while index > 0 {
        index -= 1;
        let comment = code[index].trim().is_empty() && text[index].trim_start().starts_with("//");
        if comment && text[index].contains("SAFETY:") {
            return true;
        }
        let ended = code[index].trim_end().ends_with([';', '}']);
        if (ended && !comment) || text[index].trim().is_empty() {
            return false;
        }
    }
    false
}

/// Crate roots that do not refuse unsafe code.
pub fn roots(tree: &Tree) -> Vec<Finding> {
    let says = |source: &Source, line: &str| source.code.lines().any(|code| code.trim() == line);
    ROOTS
        .iter()
        .filter(|(path, line)| !tree.sources.iter().any(|s| s.path == *path && says(s, line)))
        .map(|(path, line)| format!("{path}: does not say `{line}`"))
        .collect()
}

#[test]
fn an_unsafe_block_without_reason_is_found() {
    let text = "fn f() {\n    // SAFETY: above the statement counts.\n    let a =\n        unsafe { b() };\n    let c = unsafe { d() };\n}\n";
    let source = Source::new("memory/src/x.rs", text.to_owned());
    let findings = justified(&Tree { sources: vec![source] });
    assert_eq!(findings, ["memory/src/x.rs:5: no `// SAFETY:` above"]);
}
