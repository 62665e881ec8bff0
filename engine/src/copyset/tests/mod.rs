//! Tests of a copyset's state as a whole.

mod catch_up;
mod checkpoint;
mod effects;
mod image;
mod node;
mod replay;
