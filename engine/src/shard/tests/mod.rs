//! The shard over the emulated device.

mod composer;
mod crash;
mod damage;
mod figures;
mod rig;
mod running;
