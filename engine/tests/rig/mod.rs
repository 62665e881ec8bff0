//! What the tests of durability and of bad input share: clusters, loads, and what may be read.

#![allow(dead_code, reason = "each test takes the parts that it needs")]

pub mod history;
pub mod load;
pub mod nodes;
pub mod odd;
pub mod plan;
pub mod random;
pub mod raw;
pub mod relay;
pub mod said;
