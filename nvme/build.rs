//! Finds SPDK, where the feature `spdk` is asked for. Without it everything can be checked, and nothing
//! that uses it linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(has_spdk)");
    #[cfg(feature = "spdk")]
    find_spdk();
}

#[cfg(feature = "spdk")]
fn find_spdk() {
    for package in ["spdk_nvme", "spdk_env_dpdk", "spdk_syslibs"] {
        if let Err(error) = pkg_config::Config::new().probe(package) {
            println!("cargo::warning=SPDK is not installed, or not known to pkg-config: {error}");
            return;
        }
    }
    println!("cargo::rustc-cfg=has_spdk");
}
