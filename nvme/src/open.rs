//! From a URI to a queue pair.

use std::path::PathBuf;
use std::time::Duration;

use culvert_memory::{MappingError, Region};

use crate::claim::{Access, Claimed, DeviceClaim, Holder};
use crate::config::{
    COMMAND_TIMEOUT_DEFAULT, DEPTH_DEFAULT, DEPTH_MAX, REGIONS_DEFAULT, REGIONS_MAX,
};
use crate::contract::{Completion, Namespace, QueuePair, RegisterError, Submission, Wake};
use crate::controller_error::ControllerError;
use crate::counters::Counters;
use crate::emulated::{Emulated, MediumError};
#[cfg(feature = "spdk")]
use crate::spdk::{Spdk, SpdkError};
use crate::uri::DeviceUri;
use crate::uring::{Passthrough, Uring, UringError};
use crate::vfio::{PciAddress, Vfio, VfioError};

/// How to open a queue pair.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Most commands in flight, 1 to [`DEPTH_MAX`].
    pub depth: u32,
    /// Most regions registered at the same time, up to [`REGIONS_MAX`]. For io_uring a region
    /// takes one place for each GiB.
    pub regions_max: u32,
    /// How long a command may take before it is aborted ([`QueuePair::tend`]); as long again, and
    /// the controller is reset.
    pub timeout: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            depth: DEPTH_DEFAULT,
            regions_max: REGIONS_DEFAULT,
            timeout: COMMAND_TIMEOUT_DEFAULT,
        }
    }
}

impl OpenOptions {
    /// The depth, if it is in its bounds.
    pub(crate) fn checked_depth(&self) -> Result<u16, OpenError> {
        if self.regions_max == 0 || self.regions_max > REGIONS_MAX {
            return Err(OpenError::RegionsMax { regions_max: self.regions_max });
        }
        match self.depth {
            depth @ 1..=DEPTH_MAX => Ok(depth as u16),
            depth => Err(OpenError::Depth { depth }),
        }
    }
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Caller: a depth out of bounds.
    #[error("depth {depth}: expected 1 to {DEPTH_MAX}")]
    Depth {
        /// The depth asked for.
        depth: u32,
    },
    /// Caller: a number of regions out of bounds.
    #[error("{regions_max} regions: expected 1 to {REGIONS_MAX}")]
    RegionsMax {
        /// The number asked for.
        regions_max: u32,
    },
    /// Machine: no memory for the queues.
    #[error("allocating the queues failed")]
    Memory(#[source] MappingError),
    /// Machine: no memory for the blocks of an emulated device.
    #[error("allocating the emulated device failed")]
    Medium(#[source] MediumError),
    /// The file of an emulated device cannot be used.
    #[error("the file {path:?} of the emulated device")]
    File {
        /// The file.
        path: PathBuf,
        /// What is the matter with it.
        source: MediumError,
    },
    /// Machine: no thread for the controller.
    #[error("starting the controller's thread failed")]
    Thread(#[source] std::io::Error),
    /// Device: the controller did not come up.
    #[error("bringing the controller up failed")]
    Controller(#[from] ControllerError),
    /// Somebody else uses the device.
    #[error("{path:?} is in use by {holder}; is this node already running? stop that first")]
    InUse {
        /// The file or device.
        path: PathBuf,
        /// Who.
        holder: Holder,
    },
    /// The controller cannot be driven through VFIO.
    #[error("{address}")]
    Vfio {
        /// Which.
        address: PciAddress,
        /// What is the matter with it.
        source: VfioError,
    },
    /// The controller cannot be used through SPDK.
    #[cfg(feature = "spdk")]
    #[error("{target}")]
    Spdk {
        /// Which.
        target: String,
        /// What is the matter with it.
        source: SpdkError,
    },
    /// The file or block device cannot be used through io_uring.
    #[error("{path:?}")]
    Uring {
        /// The file or device.
        path: PathBuf,
        /// What is the matter with it.
        source: UringError,
    },
}

/// Opens a queue pair on the device that `uri` names, and claims the device for it: nobody else can
/// open it while the queue pair lives. Devices in memory are nobody else's anyway.
///
/// # Errors
///
/// When the device is not there, is used by somebody else, or cannot do what is needed; the error
/// says which.
pub fn open(uri: &DeviceUri, options: &OpenOptions) -> Result<AnyQueuePair, OpenError> {
    options.checked_depth()?;
    open_claimed(&DeviceClaim::take(uri, Access::Exclusive)?, options)
}

/// Opens a queue pair on a device that is claimed already. The device stays claimed until `claim`,
/// its clones and all queue pairs made with it are gone.
///
/// # Errors
///
/// As [`open`].
pub fn open_claimed(claim: &DeviceClaim, options: &OpenOptions) -> Result<AnyQueuePair, OpenError> {
    match &claim.device {
        Claimed::Emulated(device, file) => {
            let pair = Emulated::open_on(device, file.clone(), options)?;
            Ok(AnyQueuePair::Emulated(Box::new(pair)))
        }
        Claimed::Uring(device, target) => {
            let pair = Uring::open_on(device, target.clone(), options)?;
            Ok(AnyQueuePair::Uring(Box::new(pair)))
        }
        Claimed::Generic(device, target) => {
            let pair = Passthrough::open_on(device, target.clone(), options)?;
            Ok(AnyQueuePair::Passthrough(Box::new(pair)))
        }
        Claimed::Vfio(controller, device) => {
            let pair = Vfio::open_on(controller, device.clone(), options)?;
            Ok(AnyQueuePair::Vfio(Box::new(pair)))
        }
        #[cfg(feature = "spdk")]
        Claimed::Spdk(device, controller) => {
            let pair = Spdk::open_on(device, controller.clone(), options)?;
            Ok(AnyQueuePair::Spdk(Box::new(pair)))
        }
    }
}

/// A queue pair of any backend in this build.
#[allow(private_interfaces, reason = "what is behind a ring is named, and nobody else's business")]
#[derive(Debug)]
pub enum AnyQueuePair {
    /// On an emulated controller.
    Emulated(Box<Emulated>),
    /// On a file or block device, through io_uring.
    Uring(Box<Uring>),
    /// On an NVMe namespace, through io_uring.
    Passthrough(Box<Passthrough>),
    /// On a controller behind VFIO.
    Vfio(Box<Vfio>),
    /// On a controller that SPDK drives.
    #[cfg(feature = "spdk")]
    Spdk(Box<Spdk>),
}

impl AnyQueuePair {
    /// The emulated controller, for its faults and power failures.
    pub fn as_emulated_mut(&mut self) -> Option<&mut Emulated> {
        match self {
            AnyQueuePair::Emulated(pair) => Some(pair),
            _ => None,
        }
    }
}

/// Calls the same method of whichever backend it is.
macro_rules! dispatch {
    ($self:ident, $pair:ident => $call:expr) => {
        match $self {
            AnyQueuePair::Emulated($pair) => $call,
            AnyQueuePair::Uring($pair) => $call,
            AnyQueuePair::Passthrough($pair) => $call,
            AnyQueuePair::Vfio($pair) => $call,
            #[cfg(feature = "spdk")]
            AnyQueuePair::Spdk($pair) => $call,
        }
    };
}

impl QueuePair for AnyQueuePair {
    fn namespace(&self) -> &Namespace {
        dispatch!(self, pair => pair.namespace())
    }

    fn register(&mut self, region: &Region) -> Result<(), RegisterError> {
        dispatch!(self, pair => pair.register(region))
    }

    fn unregister(&mut self, region: &Region) {
        dispatch!(self, pair => pair.unregister(region))
    }

    #[inline]
    fn submit(&mut self, submission: Submission) -> Result<(), Submission> {
        dispatch!(self, pair => pair.submit(submission))
    }

    #[inline]
    fn ring(&mut self) {
        dispatch!(self, pair => pair.ring())
    }

    #[inline]
    fn poll(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize {
        dispatch!(self, pair => pair.poll(budget, complete))
    }

    fn in_flight(&self) -> usize {
        dispatch!(self, pair => pair.in_flight())
    }

    fn depth(&self) -> usize {
        dispatch!(self, pair => pair.depth())
    }

    fn wake(&self) -> Wake<'_> {
        dispatch!(self, pair => pair.wake())
    }

    fn arm(&mut self) -> bool {
        dispatch!(self, pair => pair.arm())
    }

    fn counters(&self) -> &Counters {
        dispatch!(self, pair => pair.counters())
    }

    fn tend(&mut self, now_ns: u64) {
        dispatch!(self, pair => pair.tend(now_ns));
    }
}
