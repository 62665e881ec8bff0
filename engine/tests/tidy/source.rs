//! The workspace's sources, each with a *masked* copy: the same bytes with comments, strings and
//! characters blanked, so that a search in it finds code only, at the right line.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One Rust file.
pub struct Source {
    /// Path from the workspace's root, with `/`.
    pub path: String,
    /// The file as it is.
    pub text: String,
    /// The file with comments, strings and characters blanked; newlines stay.
    pub code: String,
    /// The file is test code as a whole.
    pub is_test: bool,
    /// For each line, whether it is test code.
    pub test_lines: Vec<bool>,
}

/// Every Rust file of the workspace.
pub struct Tree {
    /// The files, ordered by path.
    pub sources: Vec<Source>,
}

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine lies in the workspace").into()
}

impl Tree {
    /// Reads all Rust files below the root.
    pub fn load() -> Tree {
        let mut sources: Vec<Source> =
            files_below(&root(), &["rs"]).into_iter().map(Source::read).collect();
        assert!(sources.len() > 10, "tidy found {} sources: wrong folder?", sources.len());
        let tests: BTreeSet<String> = sources.iter().flat_map(Source::test_modules).collect();
        for source in &mut sources {
            let path = source.path.strip_suffix(".rs").expect("a Rust file");
            let below = |module: &String| {
                path == module || path.strip_prefix(module).is_some_and(|r| r.starts_with('/'))
            };
            let folder = path.split('/').any(|part| part == "tests" || part == "benches");
            source.is_test = folder || tests.iter().any(below);
        }
        Tree { sources }
    }
}

impl Source {
    fn read(path: PathBuf) -> Source {
        let text = fs::read_to_string(&path).expect("a readable source");
        let path = path.strip_prefix(root()).expect("below the root");
        Source::new(&path.display().to_string(), text)
    }

    /// A file that is not known to be test code.
    pub fn new(path: &str, text: String) -> Source {
        let code = mask(&text);
        let test_lines = test_lines(&code);
        Source { path: path.to_owned(), text, code, is_test: false, test_lines }
    }

    /// Masked lines with their number from 1, without those of test code.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let shown = |index: &usize| !self.is_test && !self.test_lines[*index];
        self.code.lines().enumerate().filter(move |(i, _)| shown(i)).map(|(i, line)| (i + 1, line))
    }

    /// Paths, without `.rs`, of modules that are declared behind `cfg(test)` in this file.
    fn test_modules(&self) -> Vec<String> {
        let stem = self.path.strip_suffix(".rs").expect("a Rust file");
        let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        let base = if ["mod", "lib", "main"].contains(&name) { folder } else { stem };
        let lines: Vec<&str> = self.code.lines().map(str::trim).collect();
        let behind_test = |i: usize| {
            lines[..i].iter().rev().take_while(|l| l.starts_with("#[")).any(|l| is_test_cfg(l))
        };
        let declared = |line: &str| {
            let name = line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')?;
            Some(format!("{base}/{name}"))
        };
        (0..lines.len()).filter(|&i| behind_test(i)).filter_map(|i| declared(lines[i])).collect()
    }
}

/// Files with one of the extensions below a folder, ordered; hidden folders and `target` are left
/// out.
pub fn files_below(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a readable folder")
        .map(|e| e.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(files_below(&path, extensions));
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e))
        {
            found.push(path);
        }
    }
    found
}

/// Whether `word` stands in `line` with no identifier's letter on either side.
pub fn has_word(line: &str, word: &str) -> bool {
    find_word(line, word).is_some()
}

/// Where `word` stands in `line` on its own.
pub fn find_word(line: &str, word: &str) -> Option<usize> {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).map(|(at, _)| at).find(|&at| {
        let before = line[..at].chars().next_back().is_some_and(letter);
        let after = line[at + word.len()..].chars().next().is_some_and(letter);
        !before && !after
    })
}

fn is_test_cfg(line: &str) -> bool {
    line.starts_with("#[cfg(") && has_word(line, "test") && !line.contains("not(test")
}

/// For each line, whether it belongs to an inline `#[cfg(test)]` item with a body.
fn test_lines(code: &str) -> Vec<bool> {
    let lines: Vec<&str> = code.lines().collect();
    let mut marked = vec![false; lines.len()];
    let mut index = 0;
    while index < lines.len() {
        if is_test_cfg(lines[index].trim()) {
            let end = end_of_item(&lines, index);
            marked[index..=end].fill(true);
            index = end;
        }
        index += 1;
    }
    marked
}

/// The last line of the item that starts at `start`: where its braces close, or its `;`.
pub fn end_of_item(lines: &[&str], start: usize) -> usize {
    let mut depth = 0;
    for (index, line) in lines.iter().enumerate().skip(start) {
        for c in line.chars() {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' if depth == 1 => return index,
                '}' | ')' | ']' => depth -= 1,
                ';' if depth == 0 => return index,
                _ => {}
            }
        }
    }
    lines.len() - 1
}

/// Blanks comments, strings and characters.
fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = opaque_length(bytes, at);
        if length == 0 {
            out.push(bytes[at]);
            at += 1;
        } else {
            let blank = |&b: &u8| if b == b'\n' { b'\n' } else { b' ' };
            out.extend(bytes[at..at + length].iter().map(blank));
            at += length;
        }
    }
    String::from_utf8(out).expect("blanks are ASCII and the rest is kept whole")
}

/// Length of the comment, string or character that starts at `at`; 0 where code goes on.
fn opaque_length(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
    } else if rest.starts_with(b"/*") {
        block_comment_length(rest)
    } else if rest[0] == b'"' {
        string_length(rest)
    } else if !word_before && (rest[0] == b'r' || rest.starts_with(b"br")) {
        raw_string_length(rest)
    } else if rest[0] == b'\'' {
        character_length(rest)
    } else {
        0
    }
}

fn block_comment_length(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn string_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string_length(rest: &[u8]) -> usize {
    let start = if rest[0] == b'b' { 2 } else { 1 };
    let hashes = rest[start..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(start + hashes) != Some(&b'"') {
        return 0;
    }
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = start + hashes + 1;
    let end = rest[body..].windows(close.len()).position(|window| window == close);
    end.map_or(rest.len(), |end| body + end + close.len())
}

/// A character, not a lifetime: `'x'`, `'\n'`, `'\u{1f600}'`.
fn character_length(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).position(|&b| b == b'\'');
        return end.map_or(0, |end| end + 4);
    }
    let width = match rest.get(1) {
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        _ => 1,
    };
    if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
}

#[test]
fn masking_leaves_code_only() {
    let text =
        "let a = \"unsafe // {\"; // unsafe\nlet b = '\"'; let c: &'a str = r#\"}\"#; /* x */ y";
    let code = mask(text);
    assert_eq!(code.len(), text.len());
    assert!(!has_word(&code, "unsafe"));
    assert!(code.contains("let c: &'a str ="));
    assert!(code.ends_with(" y"));
    assert_eq!(code.matches('}').count(), 0);
    assert_eq!(mask("'\\'' '\\u{7f}' 'é' x"), format!("{} x", " ".repeat(18)));
}

#[test]
fn inline_tests_are_seen() {
    let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nfn c() {}";
    assert_eq!(test_lines(code), [false, true, true, true, true, false]);
}
