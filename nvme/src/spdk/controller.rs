#![allow(unsafe_code)]
//! A controller that SPDK has brought up, shared by the queue pairs of a process.

use std::ffi::CString;
use std::ptr::{NonNull, null};

use super::{BACKEND, SpdkError, SpdkOptions, environment, ffi};
use crate::config::TRANSFER_BYTES_MAX;
use crate::contract::Namespace;
use crate::submission_entry::NamespaceId;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct SpdkController {
    pub(super) controller: NonNull<ffi::Controller>,
    pub(super) id: NamespaceId,
    pub(super) namespace: Namespace,
}

// SAFETY: SPDK guards what queue pairs of several threads do with their controller; it is detached by
// the last of them.
unsafe impl Send for SpdkController {}
// SAFETY: as above.
unsafe impl Sync for SpdkController {}

impl SpdkController {
    /// Connects to a controller.
    pub(crate) fn connect(options: &SpdkOptions) -> Result<SpdkController, SpdkError> {
        environment::set_up().map_err(|errno| SpdkError::Environment(errno.into()))?;
        let text = CString::new(options.transport()).map_err(|_| SpdkError::Target)?;
        let mut id = ffi::TransportId([0; 1024]);
        // SAFETY: the identifier is larger than SPDK's, and the text ends with a zero.
        if unsafe { ffi::spdk_nvme_transport_id_parse(&mut id, text.as_ptr()) } != 0 {
            return Err(SpdkError::Target);
        }
        // SAFETY: SPDK has filled the identifier; without options it takes its own.
        let controller = unsafe { ffi::spdk_nvme_connect(&id, null(), 0) };
        let controller = NonNull::new(controller).ok_or(SpdkError::Connect)?;
        let named = identify(controller, options.namespace);
        let (id, namespace) = named.inspect_err(|_| detach(controller))?;
        Ok(SpdkController { controller, id, namespace })
    }
}

/// The namespace that is to be used, and what the controller says of it.
fn identify(
    controller: NonNull<ffi::Controller>,
    wanted: Option<u32>,
) -> Result<(NamespaceId, Namespace), SpdkError> {
    let raw = controller.as_ptr();
    let id = match wanted {
        // SAFETY: the controller is connected.
        None => unsafe { ffi::spdk_nvme_ctrlr_get_first_active_ns(raw) },
        Some(id) => id,
    };
    // SAFETY: as above.
    if id == 0 || !unsafe { ffi::spdk_nvme_ctrlr_is_active_ns(raw, id) } {
        return Err(SpdkError::NoNamespace { namespace: id });
    }
    // SAFETY: as above; the namespace is active.
    let namespace = NonNull::new(unsafe { ffi::spdk_nvme_ctrlr_get_ns(raw, id) });
    let namespace = namespace.ok_or(SpdkError::NoNamespace { namespace: id })?;
    // SAFETY: the controller is connected, and the namespace active.
    let of_controller = unsafe { ffi::spdk_nvme_ctrlr_get_data(raw) };
    // SAFETY: as above.
    let of_namespace = unsafe { ffi::spdk_nvme_ns_get_data(namespace.as_ptr()) };
    // SAFETY: identify data are 4096 bytes, and live as long as the controller.
    let of_controller = unsafe { &*of_controller };
    // SAFETY: as above.
    let of_namespace = unsafe { &*of_namespace };
    let geometry = of_namespace.geometry()?;
    if geometry.metadata_bytes > 0 {
        return Err(SpdkError::Metadata { bytes: geometry.metadata_bytes });
    }
    // SAFETY: the controller is connected.
    let transfer_bytes_max = unsafe { ffi::spdk_nvme_ctrlr_get_max_xfer_size(raw) };
    let described = Namespace {
        block_size: geometry.block_size,
        blocks: geometry.blocks,
        // Whether a cache that is there is switched on does not matter: a flush too many costs little.
        volatile_write_cache: of_controller.has_volatile_write_cache(),
        transfer_bytes_max: transfer_bytes_max.min(TRANSFER_BYTES_MAX),
        metadata_bytes: 0,
        model: of_controller.model,
        serial: of_controller.serial,
        backend: BACKEND,
    };
    Ok((NamespaceId(id), described))
}

fn detach(controller: NonNull<ffi::Controller>) {
    // SAFETY: nobody uses the controller any more.
    if unsafe { ffi::spdk_nvme_detach(controller.as_ptr()) } != 0 {
        tracing::warn!("SPDK does not let go of a controller");
    }
}

impl Drop for SpdkController {
    fn drop(&mut self) {
        detach(self.controller);
    }
}
