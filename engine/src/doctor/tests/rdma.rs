//! RDMA devices: a card with two ports, soft-RoCE, InfiniBand, and none.

use super::super::rdma::{examine, rdma_devices};
use super::{Tree, expect_bad, expect_good, expect_unknown, subjects};

/// The card's place on PCI.
pub(super) const ADDRESS: &str = "0000:81:00.0";

const CARD: &str = "/sys/class/infiniband/mlx5_0";
const LINK_LOCAL: &str = "fe80:0000:0000:0000:0e42:a1ff:fe00:0001";
const GLOBAL: &str = "2001:0db8:0000:0000:0000:0000:0000:0011";
const MAPPED: &str = "0000:0000:0000:0000:0000:ffff:0a09:0001";
const EMPTY: &str = "0000:0000:0000:0000:0000:0000:0000:0000";

/// A port with a GID table of `(address, type)`.
fn port(tree: &Tree, folder: &str, net: &str, gids: &[(&str, &str)]) {
    let files = [
        ("state", "4: ACTIVE"),
        ("phys_state", "5: LinkUp"),
        ("rate", "100 Gb/sec (4X EDR)"),
        ("link_layer", "Ethernet"),
    ];
    tree.files(folder, &files);
    for (index, (address, kind)) in gids.iter().enumerate() {
        tree.file(&format!("{folder}/gids/{index}"), address);
        // The kernel answers EINVAL for the rest of an empty entry: here the files are missing.
        if *address != EMPTY {
            tree.file(&format!("{folder}/gid_attrs/types/{index}"), kind);
            tree.file(&format!("{folder}/gid_attrs/ndevs/{index}"), net);
        }
    }
}

fn net(tree: &Tree, name: &str, flags: &str, mtu: &str) {
    tree.files(&format!("/sys/class/net/{name}"), &[("flags", flags), ("mtu", mtu)]);
}

fn v1_and_v2(address: &str) -> [(&str, &str); 2] {
    [(address, "IB/RoCE v1"), (address, "RoCE v2")]
}

/// One device with one port that is up, over `eth2` with the largest path MTU.
pub(super) fn mlx5(tree: &Tree) {
    let pci = format!("/sys/bus/pci/devices/{ADDRESS}");
    tree.files(&pci, &[("class", "0x020000"), ("numa_node", "1")]);
    tree.link(&format!("{pci}/driver"), "../../../../bus/pci/drivers/mlx5_core");
    tree.file(&format!("{pci}/net/eth2/dev_port"), "0");
    tree.files(CARD, &[("node_type", "1: CA"), ("fw_ver", "22.35.1012")]);
    tree.link(&format!("{CARD}/device"), &format!("../../../bus/pci/devices/{ADDRESS}"));
    let [local_v1, local_v2] = v1_and_v2(LINK_LOCAL);
    let [mapped_v1, mapped_v2] = v1_and_v2(MAPPED);
    let gids = [local_v1, local_v2, mapped_v1, mapped_v2, (EMPTY, ""), (GLOBAL, "RoCE v2")];
    port(tree, &format!("{CARD}/ports/1"), "eth2", &gids);
    let counters = [("out_of_sequence", "0"), ("local_ack_timeout_err", "0"), ("lifespan", "10")];
    tree.files(&format!("{CARD}/ports/1/hw_counters"), &counters);
    net(tree, "eth2", "0x1003", "9000");
}

/// What user space needs to reach the device.
pub(super) fn user_space(tree: &Tree) {
    tree.file("/dev/infiniband/rdma_cm", "").file("/dev/infiniband/uverbs0", "");
    tree.file("/sys/class/infiniband_verbs/uverbs0/ibdev", "mlx5_0");
    tree.file("/usr/lib64/libibverbs.so.1", "").file("/usr/lib64/librdmacm.so.1", "");
    tree.file("/etc/libibverbs.d/mlx5.driver", "driver mlx5");
}

#[test]
fn a_card_is_described_with_its_addresses() {
    let tree = Tree::new();
    tree.numa(&["0-3", "4-7"]);
    mlx5(&tree);
    user_space(&tree);
    let findings = examine(&tree.machine());
    expect_good(&findings, "libraries", "libibverbs.so.1 and librdmacm.so.1 are there");
    expect_good(&findings, "providers", "mlx5");
    expect_good(&findings, "connection manager", "/dev/infiniband/rdma_cm may be used");
    let what = "mlx5_core, firmware 22.35.1012, NUMA node 1 (cores 4-7, distance 21 from node 0)";
    expect_good(&findings, "mlx5_0", what);
    expect_good(&findings, "mlx5_0 verbs", "/dev/infiniband/uverbs0 may be used");
    expect_good(&findings, "mlx5_0/1", "active, Ethernet, 100 Gb/sec (4X EDR), over eth2");
    expect_good(&findings, "mlx5_0/1 GID 3", "RoCE v2 over IPv4, 10.9.0.1 of eth2");
    expect_good(&findings, "mlx5_0/1 GID 5", "RoCE v2 over IPv6, 2001:db8::11 of eth2");
    let what = "0 (RoCE v1), 1 (link-local), 2 (RoCE v1): not for nodes";
    expect_good(&findings, "mlx5_0/1 other GIDs", what);
    let what = "4096 follows from the 9000 of eth2: a block is one packet";
    expect_good(&findings, "mlx5_0/1 MTU", what);
    expect_unknown(&findings, "mlx5_0/1 PFC", "not in sysfs", "dcb pfc show dev eth2");
    expect_unknown(&findings, "mlx5_0/1 ECN", "not told", "CNPs");
    let what = "2 of loss, retries and congestion, all 0";
    expect_good(&findings, "mlx5_0/1 counters", what);
    assert_eq!(findings.list.len(), 13, "{findings:#?}");
}

#[test]
fn a_second_port_that_is_down_says_what_to_do() {
    let tree = Tree::new();
    mlx5(&tree);
    tree.file(&format!("/sys/bus/pci/devices/{ADDRESS}/net/eth3/dev_port"), "1");
    net(&tree, "eth3", "0x1002", "1500");
    let second = format!("{CARD}/ports/2");
    port(&tree, &second, "eth3", &[]);
    tree.files(&second, &[("state", "1: DOWN"), ("phys_state", "3: Disabled")]);
    let findings = examine(&tree.machine());
    expect_good(&findings, "mlx5_0/1", "active, Ethernet, 100 Gb/sec (4X EDR), over eth2");
    let words = "DOWN (Disabled), Ethernet, over eth3: it carries nothing";
    expect_bad(&findings, "mlx5_0/2", words, "ip link set eth3 up");
    assert!(!subjects(&findings).contains(&"mlx5_0/2 MTU"), "nothing more is asked of it");
    net(&tree, "eth3", "0x1003", "1500");
    let findings = examine(&tree.machine());
    expect_unknown(&findings, "mlx5_0/2", "DOWN", "cable, module or switch: ethtool eth3");
    tree.file(&format!("{second}/state"), "");
    let findings = examine(&tree.machine());
    expect_unknown(&findings, "mlx5_0/2", "state not told", "ports/2/state");
}

#[test]
fn the_path_mtu_follows_from_the_link() {
    let tree = Tree::new();
    mlx5(&tree);
    let mend = "ip link set eth2 mtu 4200  # and all nodes and switches";
    for (mtu, words) in [
        ("1500", "1024 follows from the 1500 of eth2: a block of 4 KiB is 4 packets"),
        ("2144", "2048 follows from the 2144 of eth2: a block of 4 KiB is 2 packets"),
        ("300", "the 300 of eth2 is too little for RDMA"),
    ] {
        net(&tree, "eth2", "0x1003", mtu);
        expect_bad(&examine(&tree.machine()), "mlx5_0/1 MTU", words, mend);
    }
    for mtu in ["4200", "9000"] {
        net(&tree, "eth2", "0x1003", mtu);
        let what = format!("4096 follows from the {mtu} of eth2: a block is one packet");
        expect_good(&examine(&tree.machine()), "mlx5_0/1 MTU", &what);
    }
    net(&tree, "eth2", "0x1003", "jumbo");
    expect_unknown(&examine(&tree.machine()), "mlx5_0/1 MTU", "not told", "says \"jumbo\"");
}

#[test]
fn addresses_may_be_of_one_family_or_missing() {
    let tree = Tree::new();
    mlx5(&tree);
    for index in [2, 3] {
        tree.file(&format!("{CARD}/ports/1/gids/{index}"), EMPTY);
    }
    let findings = examine(&tree.machine());
    expect_good(&findings, "mlx5_0/1 GID 5", "RoCE v2 over IPv6, 2001:db8::11 of eth2");
    assert!(!subjects(&findings).contains(&"mlx5_0/1 GID 3"), "{findings:#?}");
    tree.file(&format!("{CARD}/ports/1/gids/5"), "not an address");
    let findings = examine(&tree.machine());
    let mend = "ip address add ADDRESS/PREFIX dev eth2";
    expect_bad(&findings, "mlx5_0/1 GIDs", "no address for `rdma://`", mend);
    let what = "0 (RoCE v1), 1 (link-local): not for nodes";
    expect_good(&findings, "mlx5_0/1 other GIDs", what);
}

#[test]
fn each_network_of_a_port_has_its_mtu() {
    let tree = Tree::new();
    mlx5(&tree);
    tree.file(&format!("{CARD}/ports/1/gid_attrs/ndevs/5"), "eth2.100");
    net(&tree, "eth2.100", "0x1003", "1500");
    let findings = examine(&tree.machine());
    let mtus = findings.list.iter().filter(|finding| finding.subject == "mlx5_0/1 MTU");
    let whats: Vec<&str> = mtus.map(|finding| finding.what.as_str()).collect();
    assert_eq!(whats.len(), 2);
    assert!(whats[0].contains("9000 of eth2:"), "{whats:?}");
    assert!(whats[1].contains("1500 of eth2.100:"), "{whats:?}");
}

/// `device` is missing, and `parent` names the network device.
#[test]
fn soft_roce_is_known_as_software() {
    let tree = Tree::new();
    let folder = "/sys/class/infiniband/rxe0";
    tree.files(folder, &[("node_type", "1: CA"), ("parent", "eth0"), ("fw_ver", "")]);
    let [_, mapped] = v1_and_v2(MAPPED);
    port(&tree, &format!("{folder}/ports/1"), "eth0", &[(LINK_LOCAL, "RoCE v2"), mapped]);
    let counters = [("completer_retry_err", "12"), ("sent_pkts", "99"), ("rcvd_seq_err", "0")];
    tree.files(&format!("{folder}/ports/1/hw_counters"), &counters);
    net(&tree, "eth0", "0x1003", "1500");
    user_space(&tree);
    tree.file("/sys/class/infiniband_verbs/uverbs0/ibdev", "rxe0");
    let findings = examine(&tree.machine());
    let what = "software over eth0: shows that it works, not how fast";
    expect_good(&findings, "rxe0", what);
    expect_good(&findings, "rxe0/1 GID 1", "RoCE v2 over IPv4, 10.9.0.1 of eth0");
    let mend = "ip link set eth0 mtu 4200  # and all nodes and switches";
    expect_bad(&findings, "rxe0/1 MTU", "1024 follows from the 1500 of eth0", mend);
    expect_unknown(&findings, "rxe0/1 counters", "completer_retry_err 12", "grow under load");
    assert!(!subjects(&findings).contains(&"rxe0/1 PFC"), "{findings:#?}");
}

#[test]
fn infiniband_waits_for_its_subnet_manager() {
    let tree = Tree::new();
    mlx5(&tree);
    let folder = format!("{CARD}/ports/1");
    tree.files(&folder, &[("link_layer", "InfiniBand"), ("state", "2: INIT")]);
    let mend = "systemctl start opensm  # on one machine of the fabric";
    expect_bad(&examine(&tree.machine()), "mlx5_0/1", "INIT (LinkUp)", mend);
    tree.file(&format!("{folder}/state"), "4: ACTIVE");
    let findings = examine(&tree.machine());
    expect_good(&findings, "mlx5_0/1 IPoIB", "addresses of nodes are those of eth2");
    expect_unknown(&findings, "mlx5_0/1 MTU", "InfiniBand", "ibv_devinfo -d mlx5_0");
}

#[test]
fn iwarp_is_told_apart() {
    let tree = Tree::new();
    mlx5(&tree);
    tree.file(&format!("{CARD}/node_type"), "4: RNIC");
    let findings = examine(&tree.machine());
    expect_unknown(&findings, "mlx5_0", "mlx5_core", "iWARP");
    assert!(!subjects(&findings).contains(&"mlx5_0/1 MTU"), "{findings:#?}");
}

#[test]
fn ecn_is_seen_where_the_driver_shows_it() {
    let tree = Tree::new();
    mlx5(&tree);
    let ecn = "/sys/class/net/eth2/ecn";
    for side in ["roce_np", "roce_rp"] {
        for priority in 0..8 {
            tree.file(&format!("{ecn}/{side}/enable/{priority}"), "0");
        }
    }
    tree.file(&format!("{ecn}/roce_np/enable/3"), "1");
    let mend = "echo 1 | tee /sys/class/net/eth2/ecn/roce_{np,rp}/enable/3";
    expect_bad(&examine(&tree.machine()), "mlx5_0/1 ECN", "off", mend);
    tree.file(&format!("{ecn}/roce_rp/enable/3"), "1");
    expect_good(&examine(&tree.machine()), "mlx5_0/1 ECN", "on for priority 3");
}

#[test]
fn what_user_space_lacks_is_named() {
    let tree = Tree::new();
    mlx5(&tree);
    let findings = examine(&tree.machine());
    let words = "libibverbs.so.1 and librdmacm.so.1 not in the usual folders";
    expect_unknown(&findings, "libraries", words, "/etc/ld.so.cache");
    expect_bad(&findings, "connection manager", "rdma_cm", "modprobe rdma_ucm");
    expect_bad(&findings, "mlx5_0 verbs", "no uverbs device", "modprobe ib_uverbs");

    // A cache that knows one of them, in a folder of its own.
    tree.file("/opt/ofed/libibverbs.so.1", "");
    tree.file(
        "/etc/ld.so.cache",
        "glibc-ld.so.cache1.1\0/opt/ofed/libibverbs.so.1\0/x/librdmacm.so.1\0",
    );
    tree.file(
        "/etc/os-release",
        "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"",
    );
    let findings = examine(&tree.machine());
    let mend = "dnf install libibverbs librdmacm";
    expect_bad(&findings, "libraries", "no librdmacm.so.1: `rdma://` cannot", mend);
    tree.file("/x/librdmacm.so.1", "").file("/etc/os-release", "ID=debian");
    let findings = examine(&tree.machine());
    let mend = "apt-get install libibverbs1 librdmacm1 ibverbs-providers";
    expect_bad(&findings, "providers", "libibverbs sees no device", mend);

    tree.file("/sys/class/infiniband_verbs/uverbs0/ibdev", "mlx5_0");
    let mend = "udevadm trigger --subsystem-match=infiniband_verbs";
    expect_bad(&examine(&tree.machine()), "mlx5_0 verbs", "/dev/infiniband/uverbs0", mend);
}

#[test]
fn no_device_is_no_fault() {
    let tree = Tree::new();
    net(&tree, "lo", "0x9", "65536");
    net(&tree, "eth0", "0x1002", "1500");
    net(&tree, "eth1", "0x1003", "1500");
    for name in ["eth0", "eth1"] {
        tree.folder(&format!("/sys/class/net/{name}/device"));
    }
    let findings = examine(&tree.machine());
    let why = "rdma link add rxe0 type rxe netdev eth1";
    expect_unknown(&findings, "devices", "none: `rdma://` cannot be used", why);
    assert_eq!(findings.list.len(), 1);
    // The card is there, and its module is not.
    let pci = "/sys/bus/pci/devices/0000:81:00.0";
    tree.link(&format!("{pci}/driver"), "../../../../bus/pci/drivers/mlx5_core");
    let words = "0000:81:00.0 (mlx5_core) could be one";
    expect_bad(&examine(&tree.machine()), "devices", words, "modprobe mlx5_ib");
}

#[test]
fn devices_are_listed_with_the_addresses_of_active_ports() {
    let tree = Tree::new();
    mlx5(&tree);
    let folder = "/sys/class/infiniband/rxe0";
    tree.files(folder, &[("node_type", "1: CA"), ("parent", "eth0")]);
    let [_, mapped] = v1_and_v2("0000:0000:0000:0000:0000:ffff:0a09:0002");
    port(&tree, &format!("{folder}/ports/1"), "eth0", &[(GLOBAL, "RoCE v2"), mapped]);
    let devices = rdma_devices(&tree.machine());
    let said = serde_json::to_value(&devices).expect("JSON");
    let expected = serde_json::json!([
        { "device": "rxe0", "driver": "rxe", "soft": true },
        { "device": "mlx5_0", "driver": "mlx5_core", "soft": false },
    ]);
    assert_eq!(said, expected);
    let addresses: Vec<Vec<String>> = devices
        .iter()
        .map(|device| device.addresses.iter().map(ToString::to_string).collect())
        .collect();
    // IPv4 first, whatever stands first in the table; link-local and v1 are for nobody.
    assert_eq!(addresses, [["10.9.0.2", "2001:db8::11"], ["10.9.0.1", "2001:db8::11"]]);

    tree.file(&format!("{folder}/ports/1/state"), "1: DOWN");
    tree.file(&format!("{CARD}/node_type"), "4: RNIC");
    let devices = rdma_devices(&tree.machine());
    assert!(devices.iter().all(|device| device.addresses.is_empty()), "{devices:?}");
    assert!(rdma_devices(&Tree::new().machine()).is_empty());
}
