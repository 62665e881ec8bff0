//! One modelled connection: the peer's granted window and the client's named one.

use std::collections::HashMap;

use culvert_memory::{Buffer, PAGE_SIZE, Window, WindowOptions};

use crate::cluster::EndpointIndex;
use crate::network::{ConnectionId, Placement};
use crate::wire::{Request, RequestKind, parse_header};

#[derive(Debug)]
struct Segment {
    first: u32,
    window: Window,
}

#[derive(Debug)]
pub struct Link {
    pub id: ConnectionId,
    pub endpoint: EndpointIndex,
    pub open: bool,
    pub established: bool,
    /// The server's window: pages granted, and how many of them are not in use. Runs are not
    /// modelled.
    pub granted: u32,
    credits: u32,
    reserved: u32,
    refused_pages: Option<u32>,
    /// The client's window.
    segments: Vec<Segment>,
    free: Vec<bool>,
    /// How often each page was given out.
    uses: Vec<u64>,
    /// The uses of its pages that each read names, by token.
    pub requested: HashMap<u64, Vec<u64>>,
    pages_max: u32,
    growing: bool,
    pub queued: usize,
    pub queue_refused: bool,
    pub last_to_server_ns: u64,
    pub last_to_client_ns: u64,
}

impl Link {
    pub fn new(id: ConnectionId, endpoint: EndpointIndex, (pages, max): (u32, u32)) -> Link {
        let mut link = Link {
            id,
            endpoint,
            open: true,
            established: false,
            granted: pages,
            credits: pages,
            reserved: 0,
            refused_pages: None,
            segments: Vec::new(),
            free: Vec::new(),
            uses: Vec::new(),
            requested: HashMap::new(),
            pages_max: max,
            growing: false,
            queued: 0,
            queue_refused: false,
            last_to_server_ns: 0,
            last_to_client_ns: 0,
        };
        link.add_segment(pages);
        link
    }

    fn add_segment(&mut self, pages: u32) {
        if pages == 0 {
            return;
        }
        let options = WindowOptions { name: "model".into(), pages, lock: false };
        let window = Window::create(&options).expect("memory for a window");
        self.segments.push(Segment { first: self.free.len() as u32, window });
        self.free.resize(self.free.len() + pages as usize, true);
        self.uses.resize(self.free.len(), 0);
    }

    /// Nothing is written to the client's window from here on; buffers of it may still be out.
    pub fn close(&mut self) {
        self.open = false;
    }

    /// Whether a growth was begun by this call.
    pub fn wish_to_grow(&mut self) -> bool {
        let may = !self.growing && self.granted < self.pages_max;
        self.growing |= may;
        may
    }

    pub fn grow(&mut self) {
        self.growing = false;
        // Segments of 2 MiB would be made of hugepages, to which no file can be written.
        let more = (self.pages_max - self.granted).min(256);
        self.granted += more;
        self.credits += more;
        self.refused_pages = None;
        self.add_segment(more);
    }

    pub fn reserve(&mut self, pages: u32) -> Option<Placement> {
        if pages > self.credits {
            self.refused_pages = Some(self.refused_pages.map_or(pages, |least| least.min(pages)));
            return None;
        }
        self.credits -= pages;
        self.reserved += pages;
        Placement::named(0, pages)
    }

    pub fn cancel(&mut self, placement: Placement) {
        self.reserved -= placement.pages();
        self.credits += placement.pages();
    }

    /// A frame with so many pages leaves; what is repeated must be as long as it was.
    pub fn check_sent(&mut self, pages: u32, repeated: bool) {
        let half = (self.granted / 2).max(1);
        assert!(pages <= half || repeated, "{pages} pages of a window of {}", self.granted);
        self.reserved = self.reserved.checked_sub(pages).expect("reserved before");
    }

    /// Credits come back; whether that allows what was refused before.
    pub fn credit(&mut self, pages: u32) -> bool {
        self.credits += pages;
        assert!(self.credits + self.reserved <= self.granted);
        let allows = self.refused_pages.is_some_and(|refused| refused <= self.credits);
        if allows {
            self.refused_pages = None;
        }
        allows
    }

    pub fn acquire_named(&mut self, pages: u32) -> Option<Buffer> {
        self.poll_released();
        for segment in &self.segments {
            let window = segment.window.pages();
            for page in 0..(window + 1).saturating_sub(pages) {
                let run = (segment.first + page) as usize..(segment.first + page + pages) as usize;
                if self.free[run.clone()].iter().all(|free| *free) {
                    self.free[run.clone()].fill(false);
                    self.uses[run].iter_mut().for_each(|uses| *uses += 1);
                    return Some(segment.window.claim(page, pages).expect("it was free"));
                }
            }
        }
        None
    }

    pub fn page_of(&self, buffer: &Buffer) -> Option<u32> {
        let of = |segment: &&Segment| buffer.region().same_as(segment.window.region());
        let segment = self.segments.iter().find(of)?;
        Some(segment.first + buffer.page() - segment.window.first_page())
    }

    /// Remembers which use of its pages a read names.
    pub fn note_request(&mut self, frame: &[u8]) {
        let (_, _, body) = parse_header(frame).expect("a client sends frames");
        let request = Request::parse(body).expect("a client sends requests");
        if request.kind == RequestKind::Read {
            let first = request.landing_page as usize;
            let run = first..first + request.range.blocks as usize;
            assert!(self.free[run.clone()].iter().all(|free| !free), "pages that are its own");
            self.requested.insert(request.token, self.uses[run].to_vec());
        }
    }

    /// The server writes into the client's window.
    pub fn write(&mut self, placement: Placement, uses: &[u64], bytes: &[u8]) {
        self.poll_released();
        let page = placement.page();
        for (page, uses) in (page..page + placement.pages()).zip(uses) {
            assert!(!self.free[page as usize], "page {page} was released too early");
            assert_eq!(self.uses[page as usize], *uses, "page {page} was given out again");
        }
        let segment = self.segments.iter().rev().find(|segment| segment.first <= page);
        let segment = segment.expect("a page of the window");
        let offset = (page - segment.first) as usize * PAGE_SIZE;
        let fd = segment.window.region().fd();
        let written = rustix::io::pwrite(fd, bytes, offset as u64).expect("a memfd");
        assert_eq!(written, bytes.len());
    }

    fn poll_released(&mut self) {
        for segment in &self.segments {
            segment.window.poll_released(|page, pages| {
                let first = (segment.first + page) as usize;
                self.free[first..first + pages as usize].fill(true);
            });
        }
    }

    /// Pages of the client's window that it holds.
    pub fn pages_out(&mut self) -> usize {
        self.poll_released();
        self.free.iter().filter(|free| !**free).count()
    }
}
