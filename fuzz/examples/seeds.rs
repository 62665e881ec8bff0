//! Writes the seeds of every target into its corpus:
//! `RUSTFLAGS="--cfg fuzzing" cargo run --example seeds`.

use std::path::Path;

use culvert_fuzz::{
    checkpoint, chunk_image, cluster_file, copyset_image, device, envelope, frames, handshake,
    journal, node_config, record,
};

/// A target's name and its seeds.
type Target = (&'static str, fn() -> Vec<Vec<u8>>);

fn main() -> std::io::Result<()> {
    let targets: [Target; 11] = [
        ("checkpoint", checkpoint::seeds),
        ("chunk_image", chunk_image::seeds),
        ("cluster_file", cluster_file::seeds),
        ("copyset_image", copyset_image::seeds),
        ("device", device::seeds),
        ("envelope", envelope::seeds),
        ("frames", frames::seeds),
        ("handshake", handshake::seeds),
        ("journal", journal::seeds),
        ("node_config", node_config::seeds),
        ("record", record::seeds),
    ];
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, seeds) in targets {
        let folder = corpus.join(name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in seeds().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
