//! The shard over the emulated device.

mod composer;
mod crash;
mod rig;
mod running;
