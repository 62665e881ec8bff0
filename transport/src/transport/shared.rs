//! What all connections of one transport share, apart from each other.

use std::collections::VecDeque;
use std::rc::Rc;

use culvert_memory::{RegionId, SlotId, Window, WindowOptions};

use crate::config::SEGMENT_PAGES_MIN;
use crate::counters::Counters;
use crate::event::RegionEvent;
use crate::handshake::message::Introduction;
use crate::handshake::state::Key;
use crate::window::landing::{Landing, whole_hugepages};
use crate::{CloseReason, ConnectionId, Identity, TransportOptions, WindowMode};

/// Which kind of link a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Shm,
    Tcp,
    Rdma,
}

/// An event that waits for the next poll.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pending {
    Connected { connection: ConnectionId, peer: Identity, initiated: bool, scheme: &'static str },
    Writable { connection: ConnectionId },
    Closed { connection: ConnectionId, reason: CloseReason },
}

/// The window of a connection that is gone, of which somebody still holds pages.
#[derive(Debug)]
pub(crate) struct Retiring {
    landing: Landing,
    /// Its own regions, when they were reported.
    regions: Vec<RegionId>,
}

/// Options, budgets, and lists of what there is to do.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: TransportOptions,
    pub(crate) key: Key,
    pub(crate) counters: Counters,
    /// The time of the last poll or post.
    pub(crate) now: u64,
    /// Pages that windows may still take.
    pub(crate) budget_pages: u32,
    pub(crate) events: VecDeque<Pending>,
    /// Connections that the next post has to visit.
    pub(crate) busy: Vec<SlotId>,
    /// Regions to be reported, and the connections whose peers may be told of theirs then.
    pub(crate) region_events: Vec<RegionEvent>,
    pub(crate) unreported: Vec<SlotId>,
    retiring: Vec<Retiring>,
    /// Connections that wait for a grant, which arrives on a socket.
    pub(crate) wishing: u32,
}

impl Shared {
    pub(crate) fn new(options: TransportOptions) -> Self {
        Self {
            key: options.pre_shared_key.as_deref().map(Rc::from),
            counters: Counters::default(),
            now: 0,
            budget_pages: options.window_budget_pages,
            events: VecDeque::with_capacity(64),
            busy: Vec::with_capacity(options.connections_max as usize),
            region_events: Vec::new(),
            unreported: Vec::new(),
            retiring: Vec::new(),
            wishing: 0,
            options,
        }
    }

    /// What this side says of itself.
    pub(crate) fn introduction(&self, window_mode: WindowMode) -> Introduction {
        Introduction {
            identity: self.options.identity,
            window_mode,
            keyed: self.key.is_some(),
            frame_bytes_max: self.options.frame_bytes_max as u32,
            data_queue_bytes: self.options.data_queue_bytes as u32,
            control_queue_bytes: self.options.control_queue_bytes as u32,
            window_pages_max: self.options.window_pages_max,
        }
    }

    /// Makes memory for at most `pages` pages of a window, within the budget; fewer where it is
    /// short.
    pub(crate) fn make_window(
        &mut self,
        backend: Backend,
        mode: WindowMode,
        pages: u32,
    ) -> Option<Window> {
        let pages = whole_hugepages(pages.min(self.budget_pages));
        if pages == 0 {
            return None;
        }
        let window = match backend {
            Backend::Shm => self.create_window(pages)?,
            Backend::Tcp | Backend::Rdma => self.carve_window(backend, mode, pages)?,
        };
        self.budget_pages -= window.pages();
        Some(window)
    }

    /// Gives back what [`Shared::make_window`] made and nobody was told of.
    pub(crate) fn unmake_window(&mut self, window: Window) {
        self.budget_pages += window.pages();
        drop(window);
    }

    /// Adds memory to a window, and reports its region where somebody wants to know.
    pub(crate) fn attach(
        &mut self,
        landing: &mut Landing,
        window: Window,
        backend: Backend,
    ) -> u32 {
        if backend == Backend::Shm && self.options.report_regions {
            self.region_events.push(RegionEvent::Added(window.region().clone()));
        }
        landing.grow(window)
    }

    /// Whether a connection of this backend has to wait before it tells its peer of a new segment.
    pub(crate) fn must_report(&self, backend: Backend) -> bool {
        backend == Backend::Shm && self.options.report_regions
    }

    /// Takes the window of a connection that is gone.
    pub(crate) fn retire(&mut self, mut landing: Landing, backend: Backend) {
        let regions = match self.must_report(backend) {
            true => landing.regions().map(culvert_memory::Region::id).collect(),
            false => Vec::new(),
        };
        landing.poll_released();
        self.retiring.push(Retiring { landing, regions });
        self.poll_retiring();
    }

    /// Lets go of retired windows that nobody uses any more.
    pub(crate) fn poll_retiring(&mut self) {
        let Self { retiring, budget_pages, region_events, .. } = self;
        retiring.retain_mut(|window| {
            window.landing.poll_released();
            if window.landing.in_use() {
                return true;
            }
            *budget_pages += window.landing.pages();
            region_events.extend(window.regions.drain(..).map(RegionEvent::Retired));
            false
        });
    }

    /// Retired windows of which somebody holds pages.
    pub(crate) fn retiring(&self) -> usize {
        self.retiring.len()
    }

    fn create_window(&self, pages: u32) -> Option<Window> {
        let name = String::from("culvert-window");
        match Window::create(&WindowOptions { name, pages, lock: self.options.lock_memory }) {
            Ok(window) => Some(window),
            Err(error) => {
                tracing::warn!(%error, pages, "no memory for a landing window");
                None
            }
        }
    }

    fn carve_window(&self, backend: Backend, mode: WindowMode, pages: u32) -> Option<Window> {
        let mut pages = pages;
        loop {
            if let Some(buffer) = self.options.pool.acquire(pages) {
                // Only a stream writes nothing but what we read from it.
                return Some(match (backend, mode) {
                    (Backend::Tcp, WindowMode::Granted) => Window::carve_private(buffer),
                    _ => Window::carve(buffer),
                });
            }
            pages /= 2;
            if pages < SEGMENT_PAGES_MIN {
                return None;
            }
        }
    }
}
