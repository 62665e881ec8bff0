//! Tidy: the rules of the house that a compiler does not know.
//!
//! Every rule reads the sources as text, so that it holds for code that this build leaves out. The
//! tables in [`arrows`] and [`lengths`] are the rules; a change of the house is a change there.
//! A failure names file, line, and what to do.

mod arrows;
mod lengths;
mod markers;
mod patches;
mod slices;
mod source;
mod unsafety;

use source::Tree;

/// Something that breaks a rule, ready to print: `path:line: what`.
type Finding = String;

/// Fails with every finding at once, so that one run shows the whole list.
fn expect_none(rule: &str, findings: &[Finding]) {
    assert!(findings.is_empty(), "\n{rule}:\n  {}\n", findings.join("\n  "));
}

#[test]
fn crates_depend_downwards_only() {
    expect_none("crates depend downwards only (see ROOMS in arrows.rs)", &arrows::crates());
}

#[test]
fn engine_modules_import_along_the_arrows() {
    let findings = arrows::modules(&Tree::load());
    expect_none("engine modules import along the arrows (see MODULES in arrows.rs)", &findings);
}

#[test]
fn pure_cores_have_no_clock_thread_socket_or_chance() {
    let findings = arrows::purity(&Tree::load());
    expect_none("a pure core takes time as an argument and asks the system for nothing", &findings);
}

#[test]
fn drivers_are_named_where_they_are_chosen() {
    let findings = arrows::drivers(&Tree::load());
    expect_none("only network and node name the drivers", &findings);
}

#[test]
fn unsafe_code_is_where_the_list_says() {
    let findings = unsafety::listed(&Tree::load());
    expect_none("docs/UNSAFE.md lists every file with unsafe code, and no other", &findings);
}

#[test]
fn unsafe_code_says_why_it_is_sound() {
    let findings = unsafety::justified(&Tree::load());
    expect_none("every unsafe block or impl has a `// SAFETY:` comment above it", &findings);
}

#[test]
fn pages_are_slices_where_no_payload_is() {
    expect_none("payload is never copied past the counters", &slices::seers(&Tree::load()));
}

#[test]
fn crate_roots_refuse_unsafe_code() {
    expect_none("crate roots refuse unsafe code", &unsafety::roots(&Tree::load()));
}

#[test]
fn functions_and_files_are_short() {
    expect_none("functions and files are short", &lengths::check(&Tree::load()));
}

#[test]
fn nothing_is_left_over() {
    expect_none("nothing is left over", &markers::leftovers(&Tree::load()));
}

#[test]
fn files_are_nouns_with_a_heading() {
    expect_none("files are nouns and say what they are", &markers::files(&Tree::load()));
}

#[test]
fn dependencies_are_explained() {
    expect_none("docs/DEPENDENCIES.md names every dependency", &markers::dependencies());
}

#[test]
fn mutations_fit_the_code() {
    expect_none("each bug of engine/tests/mutations can be put in", &patches::stale());
}

#[test]
fn documents_point_at_what_exists() {
    expect_none("links in the documents lead somewhere", &markers::links());
}
