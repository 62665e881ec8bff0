//! Machines made up in folders, and what is found in them.

mod cpu;
mod emulation;
mod iommu;
mod kernel;
mod memory;
mod nvme;
mod rdma;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Area, Counts, Finding, Findings, Machine, Verdict, examine};

/// A machine in the making.
pub(crate) struct Tree(TempDir);

impl Tree {
    pub(crate) fn new() -> Tree {
        Tree(tempfile::tempdir().expect("a scratch folder"))
    }

    fn place(&self, path: &str) -> PathBuf {
        let place = self.0.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(place.parent().expect("below the root")).expect("a scratch folder");
        place
    }

    /// A file as the kernel shows it, with a newline.
    pub(crate) fn file(&self, path: &str, text: &str) -> &Tree {
        fs::write(self.place(path), format!("{text}\n")).expect("a scratch file");
        self
    }

    /// Files in one folder.
    pub(crate) fn files(&self, folder: &str, files: &[(&str, &str)]) -> &Tree {
        for (name, text) in files {
            self.file(&format!("{folder}/{name}"), text);
        }
        self
    }

    pub(crate) fn folder(&self, path: &str) -> &Tree {
        fs::create_dir_all(self.place(path)).expect("a scratch folder");
        self
    }

    pub(crate) fn link(&self, path: &str, target: &str) -> &Tree {
        symlink(target, self.place(path)).expect("a scratch link");
        self
    }

    /// A link in the place of another.
    pub(crate) fn link_again(&self, path: &str, target: &str) {
        self.remove(path);
        self.link(path, target);
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.place(path)).expect("it is there");
    }

    pub(crate) fn machine(&self) -> Machine {
        Machine::at(self.0.path())
    }

    /// NUMA nodes with these cores, 21 from each other.
    fn numa(&self, nodes: &[&str]) -> &Tree {
        for (id, cores) in nodes.iter().enumerate() {
            let distances: Vec<&str> =
                (0..nodes.len()).map(|to| if to == id { "10" } else { "21" }).collect();
            let folder = format!("/sys/devices/system/node/node{id}");
            self.files(&folder, &[("cpulist", cores), ("distance", &distances.join(" "))]);
        }
        self
    }
}

/// `good`, `bad` or `unknown`, and the advice.
fn verdict(finding: &Finding) -> (&'static str, &str) {
    match &finding.verdict {
        Verdict::Good => ("good", ""),
        Verdict::Bad { mend } => ("bad", mend),
        Verdict::Unknown { why } => ("unknown", why),
    }
}

/// The only finding of a subject.
fn of<'a>(findings: &'a Findings, subject: &str) -> &'a Finding {
    let list = &findings.list;
    let mut found = list.iter().filter(|finding| finding.subject == subject);
    let first = found.next().unwrap_or_else(|| panic!("nothing on {subject}: {list:#?}"));
    assert!(found.next().is_none(), "two findings on {subject}: {list:#?}");
    first
}

fn expect_good(findings: &Findings, subject: &str, what: &str) {
    let finding = of(findings, subject);
    assert_eq!((verdict(finding).0, finding.what.as_str()), ("good", what), "{finding:?}");
}

fn expect_bad(findings: &Findings, subject: &str, words: &str, mend: &str) {
    let finding = of(findings, subject);
    assert_eq!(verdict(finding), ("bad", mend), "{finding:?}");
    assert!(finding.what.contains(words), "{finding:?}");
}

fn expect_unknown(findings: &Findings, subject: &str, words: &str, why: &str) {
    let finding = of(findings, subject);
    let (kind, reason) = verdict(finding);
    assert_eq!(kind, "unknown", "{finding:?}");
    assert!(finding.what.contains(words), "{finding:?}");
    assert!(reason.contains(why), "{finding:?}");
}

fn subjects(findings: &Findings) -> Vec<&str> {
    findings.list.iter().map(|finding| finding.subject.as_str()).collect()
}

/// Every file and link below a folder, with its content.
fn snapshot(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a scratch folder").flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a scratch file");
        if kind.is_dir() {
            found.insert(path.clone(), Vec::new());
            snapshot(&path, found);
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).expect("a scratch link");
            found.insert(path, target.into_os_string().into_encoded_bytes());
        } else {
            let content = fs::read(&path).expect("a scratch file");
            found.insert(path, content);
        }
    }
}

/// A machine with something of everything.
fn rich() -> Tree {
    let tree = Tree::new();
    memory::two_nodes(&tree);
    cpu::quiet(&tree);
    kernel::recent(&tree);
    rdma::mlx5(&tree);
    rdma::user_space(&tree);
    nvme::disk(&tree);
    iommu::groups(&tree, "identity");
    tree
}

#[test]
fn a_machine_of_nothing_is_unknown_and_not_bad() {
    let findings = examine(&Tree::new().machine());
    assert_eq!(Counts::of(&findings).bad, 0, "{findings:#?}");
    let areas: Vec<Area> = findings.iter().map(|finding| finding.area).collect();
    assert!(areas.is_sorted(), "{areas:?}");
    for area in [Area::Kernel, Area::Memory, Area::Cpu, Area::Rdma, Area::Nvme, Area::Iommu] {
        assert!(areas.contains(&area), "nothing on {area}");
    }
}

#[test]
fn a_good_machine_has_nothing_bad() {
    let tree = rich();
    let findings = examine(&tree.machine());
    let bad: Vec<&Finding> =
        findings.iter().filter(|finding| verdict(finding).0 == "bad").collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(Counts::of(&findings).good > 15, "{findings:#?}");
}

#[test]
fn nothing_is_written() {
    let tree = rich();
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    snapshot(tree.0.path(), &mut before);
    let _ignored = examine(&tree.machine());
    snapshot(tree.0.path(), &mut after);
    assert!(before == after, "a file changed");
}

/// Files are opened in one place, and that place opens them for reading.
#[test]
fn no_source_of_ours_can_write() {
    let sources = [
        include_str!("../mod.rs"),
        include_str!("../machine.rs"),
        include_str!("../cores.rs"),
        include_str!("../cpu.rs"),
        include_str!("../emulation.rs"),
        include_str!("../iommu.rs"),
        include_str!("../kernel.rs"),
        include_str!("../memory.rs"),
        include_str!("../numa.rs"),
        include_str!("../nvme.rs"),
        include_str!("../rdma/mod.rs"),
        include_str!("../rdma/congestion.rs"),
        include_str!("../rdma/devices.rs"),
        include_str!("../rdma/gid.rs"),
        include_str!("../rdma/library.rs"),
        include_str!("../rdma/port.rs"),
    ];
    let opens = |source: &&str| source.contains("File::") || source.contains("std::fs");
    assert_eq!(sources.iter().filter(|source| opens(source)).count(), 1);
    for word in ["OpenOptions", "File::create", "fs::write", "set_permissions", "Command", "ioctl"]
    {
        assert!(sources.iter().all(|source| !source.contains(word)), "{word}");
    }
}

/// Every file of a machine in turn is empty, nonsense, a folder, or gone.
#[test]
fn no_file_can_make_it_panic() {
    let tree = rich();
    let mut files = BTreeMap::new();
    snapshot(tree.0.path(), &mut files);
    let files = files.keys().filter(|path| fs::symlink_metadata(path).expect("it is").is_file());
    for path in files {
        let whole = fs::read(path).expect("a scratch file");
        let huge = vec![b'9'; 100_000];
        let largest = u64::MAX.to_string();
        for nonsense in [
            &b""[..],
            b"\xff\xfe\x1b[2J",
            b"-1\n",
            b": 0-\n\n,,",
            b"0x",
            b"4294967295",
            largest.as_bytes(),
            &huge,
        ] {
            fs::write(path, nonsense).expect("a scratch file");
            let findings = examine(&tree.machine());
            let said = findings.iter().map(|f| format!("{}{}", f.what, verdict(f).1));
            assert!(said.into_iter().all(|text| !text.contains('\x1b')), "{}", path.display());
        }
        fs::remove_file(path).expect("a scratch file");
        let _ignored = examine(&tree.machine());
        fs::create_dir(path).expect("a scratch folder");
        let _ignored = examine(&tree.machine());
        fs::remove_dir(path).expect("a scratch folder");
        fs::write(path, whole).expect("a scratch file");
    }
    assert_eq!(Counts::of(&examine(&tree.machine())).bad, 0, "it is as it was");
}

/// The shape that scripts rely on.
#[test]
fn a_finding_is_one_flat_object() {
    let mut findings = Findings::of(Area::Rdma);
    findings.bad("mlx5_0/1", "down", "ip link set eth2 up");
    findings.unknown("mlx5_0/1 PFC", "not in sysfs", "dcb pfc show dev eth2");
    let expected = serde_json::json!([
        {
            "area": "rdma", "subject": "mlx5_0/1", "verdict": "bad", "what": "down",
            "mend": "ip link set eth2 up"
        },
        {
            "area": "rdma", "subject": "mlx5_0/1 PFC", "verdict": "unknown",
            "what": "not in sysfs", "why": "dcb pfc show dev eth2"
        },
    ]);
    assert_eq!(serde_json::to_value(&findings.list).expect("JSON"), expected);
}
