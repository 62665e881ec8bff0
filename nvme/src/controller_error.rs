//! What can go wrong between the driver half and a controller outside of I/O commands.

use std::fmt;

use crate::identify::GeometryError;
use crate::status::Status;

/// A step of bringing a controller up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Waiting for CSTS.RDY to clear.
    Disable,
    /// Waiting for CSTS.RDY.
    Enable,
    /// Waiting for CSTS.SHST.
    Shutdown,
    /// Identify Controller.
    IdentifyController,
    /// Identify: Active Namespace ID list.
    ActiveNamespaces,
    /// Identify Namespace.
    IdentifyNamespace,
    /// Set Features: Number of Queues.
    NumberOfQueues,
    /// Get Features: Volatile Write Cache.
    VolatileWriteCache,
    /// Create I/O Completion Queue.
    CreateCompletionQueue,
    /// Create I/O Submission Queue.
    CreateSubmissionQueue,
    /// Delete I/O Submission Queue.
    DeleteSubmissionQueue,
    /// Delete I/O Completion Queue.
    DeleteCompletionQueue,
    /// Abort.
    Abort,
    /// Set Features: Asynchronous Event Configuration.
    EventConfiguration,
    /// Get Log Page.
    LogPage,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Disable => "disabling the controller",
            Step::Enable => "enabling the controller",
            Step::Shutdown => "shutting the controller down",
            Step::IdentifyController => "Identify Controller",
            Step::ActiveNamespaces => "Identify Active Namespaces",
            Step::IdentifyNamespace => "Identify Namespace",
            Step::NumberOfQueues => "Set Features: Number of Queues",
            Step::VolatileWriteCache => "Get Features: Volatile Write Cache",
            Step::CreateCompletionQueue => "Create I/O Completion Queue",
            Step::CreateSubmissionQueue => "Create I/O Submission Queue",
            Step::DeleteSubmissionQueue => "Delete I/O Submission Queue",
            Step::DeleteCompletionQueue => "Delete I/O Completion Queue",
            Step::Abort => "Abort",
            Step::EventConfiguration => "Set Features: Asynchronous Event Configuration",
            Step::LogPage => "Get Log Page",
        })
    }
}

/// Why a controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControllerError {
    /// Device: it did not answer within the time it promised (CAP.TO).
    #[error("{step}: no answer in time")]
    Timeout {
        /// What was waited for.
        step: Step,
    },
    /// Device: it reports a fatal status (CSTS.CFS); only a reset helps.
    #[error("{step}: the controller reports a fatal error")]
    Fatal {
        /// What was waited for.
        step: Step,
    },
    /// Device: it has gone away (its registers read as all ones).
    #[error("the device has gone away")]
    Gone,
    /// Device: it refused an admin command.
    #[error("{step}: {status}")]
    Refused {
        /// The command.
        step: Step,
        /// What the device said.
        status: Status,
    },
    /// Device: no NVM command set, or pages of 4 KiB are too small for it.
    #[error("the controller does not offer the NVM command set with pages of 4 KiB")]
    Unsupported,
    /// Caller: more commands in flight than the device's queues can hold.
    #[error("depth {depth} exceeds the device's {depth_max}")]
    TooDeep {
        /// The depth asked for.
        depth: u32,
        /// The device's largest.
        depth_max: u32,
    },
    /// Machine: the memory of the queues could not be mapped for the device.
    #[error("the memory of the queues could not be mapped for the device")]
    QueueMemory,
    /// Device: its last reset failed.
    #[error("the controller did not come back from its last reset")]
    Down,
    /// Device: after a reset its namespace has another size.
    #[error("the namespace has another size than before the reset")]
    Changed,
    /// Caller: more queue pairs than the device has queues.
    #[error("all {queues} I/O queues of the controller are in use")]
    NoQueue {
        /// I/O queues that the controller grants.
        queues: u16,
    },
    /// Device: it has no namespace.
    #[error("the controller has no active namespace; create one (nvme create-ns, attach-ns)")]
    NoNamespace,
    /// Caller: the namespace that was named is not there.
    #[error("the controller has no active namespace {namespace}")]
    NoSuchNamespace {
        /// Its number.
        namespace: u32,
    },
    /// The namespace cannot be used.
    #[error(transparent)]
    Namespace(#[from] GeometryError),
}
