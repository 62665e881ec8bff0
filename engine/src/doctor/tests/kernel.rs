//! The kernel's version and io_uring.

use super::super::kernel::examine;
use super::{Tree, expect_bad, expect_good, expect_unknown};

const RELEASE: &str = "/proc/sys/kernel/osrelease";
const URING: &str = "/proc/sys/kernel/io_uring_disabled";

pub(super) fn recent(tree: &Tree) {
    tree.file(RELEASE, "6.12.9-amd64").file(URING, "0");
}

#[test]
fn versions_are_compared_as_numbers() {
    for (release, good) in
        [("6.1.0-18-amd64", true), ("5.19.0", true), ("5.4.0-150-generic", false), ("10.2", true)]
    {
        let tree = Tree::new();
        let findings = examine(&tree.file(RELEASE, release).machine());
        match good {
            true => expect_good(&findings, "version", &format!("Linux {release}")),
            false => {
                let mend = "install Linux 5.19 or newer, and start it";
                expect_bad(&findings, "version", "too old", mend);
            }
        }
    }
    let findings = examine(&Tree::new().file(RELEASE, "newest").machine());
    expect_unknown(&findings, "version", "not told", "osrelease says \"newest\"");
}

#[test]
fn io_uring_may_be_forbidden() {
    let tree = Tree::new();
    recent(&tree);
    expect_good(&examine(&tree.machine()), "io_uring", "allowed");
    let mend = "sysctl -w kernel.io_uring_disabled=0";
    let findings = examine(&tree.file(URING, "2").machine());
    expect_bad(&findings, "io_uring", "`uring:` cannot be used", mend);
    let findings = examine(&tree.file(URING, "1").machine());
    expect_bad(&findings, "io_uring", "privileged", mend);
    let findings = examine(&tree.file(URING, "yes").machine());
    expect_unknown(&findings, "io_uring", "not told", "\"yes\"");
    // The switch is missing where it is older than the kernel, or io_uring is left out of it.
    let findings = examine(&Tree::new().file(RELEASE, "6.1.0").machine());
    expect_good(&findings, "io_uring", "this kernel has no switch that forbids it");
    let findings = examine(&Tree::new().file(RELEASE, "6.8.0").machine());
    expect_unknown(&findings, "io_uring", "not told", "there is no");
}
