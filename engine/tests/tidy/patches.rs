//! The bugs that `scripts/mutations` puts in: a patch that does not fit the code any more proves nothing.

use super::Finding;
use super::source::{files_below, root};

/// Patches of whose hunks one's lines, context and what it takes out, are not in their file.
pub fn stale() -> Vec<Finding> {
    let mut findings = Vec::new();
    for patch in files_below(&root().join("engine/tests/mutations"), &["patch"]) {
        let text = std::fs::read_to_string(&patch).expect("a patch is text");
        let name = patch.file_name().unwrap_or_default().to_string_lossy();
        let mut files = text.split("\ndiff --git ").skip(1).peekable();
        if files.peek().is_none() {
            findings.push(format!("engine/tests/mutations/{name}: changes nothing"));
        }
        for file in files {
            let path = file.lines().find_map(|line| line.strip_prefix("+++ b/"));
            let path = path.unwrap_or_default();
            let source = std::fs::read_to_string(root().join(path)).unwrap_or_default();
            for hunk in file.split("\n@@ ").skip(1).filter(|hunk| !source.contains(&before(hunk))) {
                let place = hunk.lines().next().unwrap_or_default();
                findings.push(format!(
                    "engine/tests/mutations/{name}: @@ {place}: no such lines in {path:?}; make it again"
                ));
            }
        }
    }
    findings
}

/// The lines that a hunk expects to find.
fn before(hunk: &str) -> String {
    let lines = hunk.lines().skip(1);
    let old = lines.filter(|line| !line.starts_with('+'));
    old.flat_map(|line| [line.get(1..).unwrap_or_default(), "\n"]).collect()
}
