//! Disks against what they promise.
