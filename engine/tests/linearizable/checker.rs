//! The simulator's judge, included and not copied: the same files judge both worlds. They belong to
//! the binary, whose modules no test can name; in the library they would be code that no user of it
//! wants. Their own tests run here a second time, which takes a moment.

#[path = "../../src/sim/history/mod.rs"]
pub mod history;
#[path = "../../src/sim/random.rs"]
pub mod random;
