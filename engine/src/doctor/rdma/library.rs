//! libibverbs and librdmacm, which `rdma://` opens at run time, and the providers that libibverbs
//! opens in turn.
//!
//! They are looked for where the dynamic linker looks: in its cache, then in the usual folders.
//! `LD_LIBRARY_PATH` may lead elsewhere.

use super::super::Findings;
use super::super::machine::Machine;

const LIBRARIES: [&str; 2] = ["libibverbs.so.1", "librdmacm.so.1"];

/// The dynamic linker's cache. It holds whole paths, each ended by a zero.
const CACHE: &str = "/etc/ld.so.cache";

/// Where each provider has a file that names it.
const PROVIDERS: &str = "/etc/libibverbs.d";

pub(super) fn examine(machine: &Machine, findings: &mut Findings) {
    let cache = machine.bytes(CACHE);
    let knows = cache.is_ok();
    let cache = cache.unwrap_or_default();
    let missing: Vec<&str> = LIBRARIES
        .into_iter()
        .filter(|name| {
            let folders = folders().into_iter().map(|folder| format!("{folder}/{name}"));
            let mut places = cached(&cache, name).into_iter().chain(folders);
            !places.any(|place| machine.has(&place))
        })
        .collect();
    let subject = "libraries";
    if missing.is_empty() {
        findings.good(subject, format!("{} are there", LIBRARIES.join(" and ")));
        examine_providers(machine, findings);
    } else if knows {
        let what = format!("no {}: `rdma://` cannot be used", missing.join(", no "));
        findings.bad(subject, what, install(machine));
    } else {
        let what = format!("{} not in the usual folders", missing.join(" and "));
        findings.unknown(subject, what, format!("{CACHE} cannot be read; ldconfig -p | grep rdma"));
    }
}

fn folders() -> Vec<String> {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let mut folders = vec![format!("/lib/{multiarch}"), format!("/usr/lib/{multiarch}")];
    folders.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"].map(Into::into));
    folders
}

/// Paths of a library in the linker's cache.
fn cached(cache: &[u8], name: &str) -> Vec<String> {
    let end = format!("/{name}");
    let strings = cache.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok());
    strings.filter(|text| text.starts_with('/') && text.ends_with(&end)).map(Into::into).collect()
}

fn examine_providers(machine: &Machine, findings: &mut Findings) {
    let names = machine.names(PROVIDERS).unwrap_or_default();
    let mut names: Vec<&str> =
        names.iter().filter_map(|name| name.strip_suffix(".driver")).collect();
    names.sort_unstable();
    if names.is_empty() {
        let what = format!("{PROVIDERS} names none: libibverbs sees no device");
        findings.bad("providers", what, install(machine));
    } else {
        findings.good("providers", names.join(", "));
    }
}

/// The command of the distribution.
fn install(machine: &Machine) -> &'static str {
    let release = machine.text("/etc/os-release").unwrap_or_default();
    let words = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let family = format!("{} {}", words("ID="), words("ID_LIKE="));
    let is = |name: &str| family.split_whitespace().any(|word| word.starts_with(name));
    if is("rhel") || is("fedora") || is("centos") {
        "dnf install libibverbs librdmacm"
    } else if is("suse") || is("opensuse") {
        "zypper install libibverbs1 librdmacm1 rdma-core"
    } else if is("arch") {
        "pacman -S rdma-core"
    } else {
        "apt-get install libibverbs1 librdmacm1 ibverbs-providers"
    }
}
