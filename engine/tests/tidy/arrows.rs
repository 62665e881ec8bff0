//! Which room may look into which.

use std::collections::BTreeMap;
use std::fs;

use super::Finding;
use super::source::{Source, Tree, find_word, has_word, root};

/// The crates, by folder, and which crates of ours each may depend on.
const ROOMS: &[(&str, &[&str])] = &[
    ("memory", &[]),
    ("nvme", &["culvert-memory"]),
    ("transport", &["culvert-memory"]),
    ("engine", &["culvert-memory", "culvert-nvme", "culvert-transport"]),
];

/// What a module of the engine is, and which of the engine's modules it may import.
struct Module {
    name: &'static str,
    kind: Kind,
    imports: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Events and `now` go in, effects come out: no clock, thread, socket or chance.
    Core,
    /// Composes cores; still takes time as an argument and names no driver.
    Composer,
    /// The only places that name a driver.
    Driver,
    /// Around the engine: configuration, command line, harness.
    Outside,
}

const fn module(name: &'static str, kind: Kind, imports: &'static [&'static str]) -> Module {
    Module { name, kind, imports }
}

/// The modules of the engine, cores first. A module may always import itself; `*` is any.
#[rustfmt::skip]
const MODULES: &[Module] = &[
    module("ids", Kind::Core, &[]),
    module("by_copyset", Kind::Core, &["ids"]),
    module("record", Kind::Core, &["ids"]),
    module("wire", Kind::Core, &["ids", "record"]),
    module("store", Kind::Core, &["ids", "by_copyset", "record"]),
    module("copyset", Kind::Core, &["ids", "record", "store"]),
    module("device", Kind::Composer, &["ids"]),
    module("journal", Kind::Core, &["ids", "record", "device"]),
    module("checkpoint", Kind::Core, &["ids", "record", "store", "copyset", "journal", "device"]),
    module("raft_group", Kind::Core, &["ids", "record", "wire"]),
    module("counters", Kind::Core, &["ids"]),
    module("stages", Kind::Core, &[]),
    module("shard", Kind::Composer, &["ids", "by_copyset", "record", "counters", "stages", "device", "journal", "store", "copyset", "checkpoint"]),
    module("network", Kind::Driver, &[]),
    module("cluster", Kind::Outside, &["ids", "network"]),
    module("config", Kind::Outside, &["ids", "wire", "network", "cluster", "raft_group"]),
    module("doctor", Kind::Outside, &["config"]),
    module("binding", Kind::Outside, &["doctor"]),
    module("chunkserver", Kind::Composer, &["ids", "by_copyset", "record", "wire", "counters", "stages", "network", "journal", "store", "copyset", "checkpoint", "raft_group", "shard"]),
    module("reactor", Kind::Composer, &["ids", "record", "wire", "counters", "network", "cluster", "raft_group", "shard", "chunkserver"]),
    module("client", Kind::Composer, &["ids", "record", "wire", "network", "cluster"]),
    module("node", Kind::Driver, &["*"]),
    module("bench", Kind::Outside, &["*"]),
    module("sim", Kind::Outside, &["*"]),
    module("cli", Kind::Outside, &["*"]),
];

/// Words that a pure core does not say, and what it does instead.
const IMPURE: &[(&str, &str)] = &[
    ("Instant", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("std::thread", "a core runs where it is called"),
    ("std::net", "a core has no sockets"),
    ("std::fs", "a core has no files"),
    ("std::env", "a core is configured by its caller"),
    ("std::process", "a core does not know its process"),
    ("rustix", "a core makes no system calls"),
    ("getrandom", "chance is an argument"),
    ("HashMap", "the default hasher is random: use BTreeMap, a table, or a fixed hasher"),
    ("HashSet", "the default hasher is random: use BTreeSet, a table, or a fixed hasher"),
    ("RandomState", "the default hasher is random"),
    ("Mutex", "the data plane has no locks"),
    ("async", "no async below the control plane"),
];

/// What names a driver: opening a device or a transport.
const DRIVERS: &[&str] = &["culvert_transport::Transport", "culvert_nvme::open", "Transport::open"];

/// Crates whose dependencies break the table.
pub fn crates() -> Vec<Finding> {
    let mut findings = Vec::new();
    for (folder, allowed) in ROOMS {
        let path = format!("{folder}/Cargo.toml");
        let text = fs::read_to_string(root().join(&path)).expect("a crate's manifest");
        let manifest: toml::Table = text.parse().expect("a manifest is TOML");
        for dependency in dependencies(&manifest) {
            if dependency.starts_with("culvert") && !allowed.contains(&dependency.as_str()) {
                findings.push(format!("{path}: {folder} must not depend on {dependency}"));
            }
        }
    }
    findings
}

/// Keys of every `dependencies` table, whatever its target or purpose.
fn dependencies(table: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            found.extend(inner.keys().cloned());
        } else {
            found.extend(dependencies(inner));
        }
    }
    found
}

/// The engine's module that a file belongs to: `engine/src/wire/peer.rs` is of `wire`.
fn module_of(source: &Source) -> Option<&str> {
    let inner = source.path.strip_prefix("engine/src/")?;
    let name = inner.split('/').next()?.trim_end_matches(".rs");
    (!["lib", "main"].contains(&name)).then_some(name)
}

fn known(name: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.name == name)
}

/// Imports that no arrow allows, and modules that the table lacks.
pub fn modules(tree: &Tree) -> Vec<Finding> {
    let mut findings = BTreeMap::new();
    for source in &tree.sources {
        let Some(name) = module_of(source) else { continue };
        let Some(module) = known(name) else {
            let what = format!("engine/src/{name}: no row in MODULES: say what it is");
            findings.insert(name.to_owned(), what);
            continue;
        };
        for (line, import) in imports(source) {
            if import != name
                && !module.imports.contains(&"*")
                && !module.imports.contains(&import.as_str())
            {
                let place = format!("{}:{line}", source.path);
                findings.insert(place.clone(), format!("{place}: {name} must not import {import}"));
            }
        }
    }
    findings.into_values().collect()
}

/// The engine's modules that a file names from the crate's root, with the line, tests left out.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let inner = source.path.trim_start_matches("engine/src/").trim_end_matches(".rs");
    let depth = inner.trim_end_matches("/mod").split('/').count();
    let from_root = ["crate::".to_owned(), "super::".repeat(depth)];
    let mut found = Vec::new();
    let lines: Vec<(usize, &str)> = source.code_lines().collect();
    for (index, (number, line)) in lines.iter().enumerate() {
        for prefix in &from_root {
            for (at, _) in line.match_indices(prefix.as_str()) {
                let mut rest = line[at + prefix.len()..].to_owned();
                if rest.starts_with('{') {
                    rest.extend(lines[index + 1..].iter().take(30).map(|(_, line)| *line));
                }
                found.extend(first_names(&rest).into_iter().map(|name| (*number, name)));
            }
        }
    }
    found
}

/// The modules in `a::B`, or in the group `{a::{B, C}, d}`; types and functions of the root are
/// none.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return module_name(path).into_iter().collect();
    };
    let mut names = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.extend(module_name(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

fn module_name(path: &str) -> Option<String> {
    let path = path.trim();
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    path[..end].chars().next()?.is_lowercase().then(|| path[..end].to_owned())
}

/// Words in pure cores that make them impure.
pub fn purity(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let core = |source: &&Source| {
        module_of(source).and_then(known).is_some_and(|module| module.kind == Kind::Core)
    };
    for source in tree.sources.iter().filter(core) {
        for (number, line) in source.code_lines() {
            for (word, instead) in IMPURE.iter().filter(|(word, _)| has_word(line, word)) {
                findings.push(format!("{}:{number}: {word}: {instead}", source.path));
            }
        }
    }
    findings
}

/// Drivers named outside the modules that choose them.
pub fn drivers(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        let Some(module) = module_of(source).and_then(known) else { continue };
        if module.kind == Kind::Driver || module.kind == Kind::Outside {
            continue;
        }
        for (number, line) in source.code_lines() {
            for driver in DRIVERS.iter().filter(|driver| find_word(line, driver).is_some()) {
                findings.push(format!("{}:{number}: {driver}", source.path));
            }
        }
    }
    findings
}

#[test]
fn a_core_that_looks_up_is_found() {
    let text = "use crate::{\n    ids::{A, B},\n    wire::C,\n};\nuse super::store;\nfn f() { crate::node::run() }\n\
                #[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n";
    let source = Source::new("engine/src/record.rs", text.to_owned());
    let names: Vec<_> =
        imports(&source).into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(names, ["1 ids", "1 wire", "5 store", "6 node"]);
    assert_eq!(modules(&Tree { sources: vec![source] }).len(), 3);
}

#[test]
fn an_impure_core_is_found() {
    let text = "use std::collections::HashMap;\nfn f() { std::time::Instant::now(); }\n";
    let source = Source::new("engine/src/record.rs", text.to_owned());
    assert_eq!(purity(&Tree { sources: vec![source] }).len(), 2);
}
