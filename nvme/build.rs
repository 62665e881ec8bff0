//! Finds SPDK, where the feature `spdk` is asked for, and says how it is linked. Without it everything
//! can be checked, and nothing that uses it linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(has_spdk)");
    #[cfg(feature = "spdk")]
    spdk::link();
}

#[cfg(feature = "spdk")]
mod spdk {
    use std::path::PathBuf;

    pub(super) fn link() {
        let mut libraries = Vec::new();
        for package in ["spdk_nvme", "spdk_env_dpdk", "spdk_syslibs"] {
            // What static libraries need is named among the private ones.
            let statically = package == "spdk_syslibs";
            match pkg_config::Config::new().statik(statically).cargo_metadata(false).probe(package)
            {
                Ok(found) => libraries.push(found),
                Err(error) => {
                    println!(
                        "cargo::warning=SPDK is not installed, or not known to pkg-config: {error}"
                    );
                    return;
                }
            }
        }
        println!("cargo::rustc-cfg=has_spdk");
        let paths: Vec<PathBuf> =
            libraries.iter().flat_map(|found| found.link_paths.clone()).collect();
        for path in &paths {
            println!("cargo::rustc-link-search=native={}", path.display());
        }
        // One that is named twice would be linked twice, for its archive is taken whole.
        let mut names: Vec<&str> = Vec::new();
        for name in libraries.iter().flat_map(|found| &found.libs) {
            let name =
                name.strip_prefix(":lib").and_then(|file| file.strip_suffix(".a")).unwrap_or(name);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        for name in names {
            let archive = format!("lib{name}.a");
            let ours = name.starts_with("spdk_") || name.starts_with("rte_");
            if ours && paths.iter().any(|path| path.join(&archive).exists()) {
                // Transports, sockets and drivers of SPDK and DPDK make themselves known in constructors
                // that nothing refers to.
                println!("cargo::rustc-link-lib=static:+whole-archive,-bundle={name}");
            } else {
                println!("cargo::rustc-link-lib={name}");
            }
        }
    }
}
