//! The shard over the emulated device.

mod composer;
mod crash;
mod figures;
mod rig;
mod running;
