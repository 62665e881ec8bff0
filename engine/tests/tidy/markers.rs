//! What must not be left in the tree, names of files, and links in the documents.

use std::fs;

use super::Finding;
use super::source::{Source, Tree, files_below, find_word, root};

/// Words that mark unfinished work. Split, so that this file does not find itself.
const UNFINISHED: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];

/// Macros of unfinished or debugging code.
const MACROS: &[&str] = &[concat!("db", "g!"), concat!("to", "do!"), concat!("unimple", "mented!")];

/// Names that say nothing about what a file holds.
const VAGUE: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

/// Marks of unfinished work, and imports that hide where a name comes from.
pub fn leftovers(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        for (index, (text, code)) in source.text.lines().zip(source.code.lines()).enumerate() {
            let word = UNFINISHED.iter().find(|word| find_word(text, word).is_some());
            let call = MACROS.iter().find(|call| code.contains(*call));
            let place = format!("{}:{}", source.path, index + 1);
            findings
                .extend(word.map(|word| format!("{place}: {word}: finish it or write it down")));
            findings
                .extend(call.map(|call| format!("{place}: {call} does not belong in the tree")));
            if code.trim_start().starts_with("pub use ") && code.contains("::*") {
                findings.push(format!("{place}: name what is exported, no `*`"));
            }
        }
    }
    findings.extend(script_leftovers());
    findings
}

fn script_leftovers() -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut paths = files_below(&root(), &["toml", "sh"]);
    for folder in ["scripts", ".ci"] {
        let entries = fs::read_dir(root().join(folder)).into_iter().flatten();
        paths.extend(entries.map(|e| e.expect("an entry").path()).filter(|path| path.is_file()));
    }
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_default();
        for (index, line) in text.lines().enumerate() {
            if let Some(word) = UNFINISHED.iter().find(|word| find_word(line, word).is_some()) {
                let path = path.strip_prefix(root()).expect("below the root").display();
                findings.push(format!("{path}:{}: {word}: finish it or write it down", index + 1));
            }
        }
    }
    findings
}

/// Each file is named by its noun and opens with what it is.
pub fn files(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        let stem = source.path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs"));
        if stem.is_some_and(|stem| VAGUE.contains(&stem)) {
            findings.push(format!("{}: name the file by what it holds", source.path));
        }
        if !source.is_test && !has_heading(source) {
            findings.push(format!("{}: open with `//!`: what it is and is not", source.path));
        }
    }
    findings
}

fn has_heading(source: &Source) -> bool {
    let mut lines = source.text.lines().skip_while(|line| line.starts_with("#!["));
    lines.next().is_some_and(|line| line.starts_with("//!"))
}

/// Dependencies of the workspace that `docs/DEPENDENCIES.md` does not name.
pub fn dependencies() -> Vec<Finding> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
    let document = fs::read_to_string(root().join("docs/DEPENDENCIES.md")).expect("the document");
    let dependencies = manifest["workspace"]["dependencies"].as_table().expect("a table");
    dependencies
        .keys()
        .filter(|name| !name.starts_with("culvert") && !document.contains(&format!("`{name}`")))
        .map(|name| format!("Cargo.toml: {name}: say in docs/DEPENDENCIES.md what it is for"))
        .collect()
}

/// Relative links of Markdown files whose target does not exist.
pub fn links() -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in files_below(&root(), &["md"]) {
        let text = fs::read_to_string(&path).expect("a readable document");
        let folder = path.parent().expect("a file lies in a folder");
        for (index, line) in text.lines().enumerate() {
            for target in link_targets(line) {
                if !folder.join(target).exists() {
                    let path = path.strip_prefix(root()).expect("below the root").display();
                    findings.push(format!("{path}:{}: no such file: {target}", index + 1));
                }
            }
        }
    }
    findings
}

/// The files that the links of one line name.
fn link_targets(line: &str) -> Vec<&str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}
