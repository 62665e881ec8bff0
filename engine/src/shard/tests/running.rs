//! A shard that runs: batches, durability, reads, idle writes, failures.
