//! A function fits a screen, a file fits a head.

use super::Finding;
use super::source::{Source, Tree, end_of_item, find_word};

/// Lines of a file at most, without its tests.
const FILE_LINES_MAX: usize = 800;

/// Lines of a function at most, signature and braces included, blank and comment lines left out.
const FUNCTION_LINES_MAX: usize = 70;

/// Files that are longer, with the length they must not pass. The list only ever shrinks.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions that are longer, as `path::name`, with the length they must not pass. Likewise.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];

/// Files and functions past their limit, and exceptions that are no longer needed.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in tree.sources.iter().filter(|source| !source.is_test) {
        let lines = source.code_lines().count();
        let name = source.path.clone();
        findings.extend(judge("file", &name, &name, lines, FILE_LINES_MAX, LONG_FILES));
        for function in functions(source) {
            let name = format!("{}::{}", source.path, function.name);
            let place = format!("{}:{}", source.path, function.line);
            let lines = function.lines;
            findings.extend(judge(
                "function",
                &name,
                &place,
                lines,
                FUNCTION_LINES_MAX,
                LONG_FUNCTIONS,
            ));
        }
    }
    findings
}

fn judge(
    kind: &str,
    name: &str,
    place: &str,
    lines: usize,
    limit: usize,
    exceptions: &[(&str, usize)],
) -> Option<Finding> {
    let exception = exceptions.iter().find(|(excepted, _)| *excepted == name).map(|(_, max)| *max);
    match exception {
        Some(max) if lines > max => {
            Some(format!("{place}: {kind} {name} grew to {lines} lines; its exception says {max}"))
        }
        Some(max) if lines < max => {
            Some(format!("{place}: {kind} {name} has {lines} lines now: lower its exception"))
        }
        None if lines > limit => Some(format!(
            "{place}: {kind} {name} has {lines} lines, the limit is {limit}: split it"
        )),
        _ => None,
    }
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// The functions of a file that are not test code.
fn functions(source: &Source) -> Vec<Function> {
    let lines: Vec<&str> = source.code.lines().collect();
    let start = |(number, line): (usize, &str)| {
        let at = find_word(line, "fn")?;
        let name: String = line[at + 2..]
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let is_item = !name.is_empty();
        let end = end_of_item(&lines, number - 1);
        let body = lines[number - 1..=end].iter().filter(|line| !line.trim().is_empty()).count();
        is_item.then_some(Function { name, line: number, lines: body })
    };
    source.code_lines().filter_map(start).collect()
}

#[test]
fn a_long_function_is_found() {
    let body = "    let a = 1;\n\n".repeat(FUNCTION_LINES_MAX - 1);
    let text = format!("fn long(\n    a: [u8; 2],\n) {{\n{body}}}\nfn short() {{}}\n");
    let source = Source::new("engine/src/record.rs", text);
    let findings = check(&Tree { sources: vec![source] });
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains("record.rs:1: function engine/src/record.rs::long"));
}
