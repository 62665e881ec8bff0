//! A frame on its way, and its payloads: read from the sender's pages and written into the
//! receiver's window sector by sector, in any order.

use culvert::network::{Class, Placement};
use culvert_memory::{PAGE_SIZE, Pages};

use super::landing::Landing;
use crate::sim::random::Random;

/// What is written at once.
const SECTOR_BYTES: usize = 512;

/// The moments at which sectors of one frame are written, at most.
const GROUPS_MAX: u64 = 6;

/// Where the sectors of a payload are read.
#[derive(Debug)]
enum Source {
    /// In the sender's pages, at the moment at which they are written.
    Pages(Pages),
    /// In a copy, since the sender is gone and they were already on the wire.
    Wire(Vec<u8>),
    /// Nowhere any more: all were read.
    Done,
}

/// A payload and its place.
#[derive(Debug)]
struct Payload {
    place: Placement,
    source: Source,
    sectors_left: usize,
}

/// Sectors that are written at one moment.
#[derive(Debug)]
struct Group {
    at_ns: u64,
    /// Payload and sector; empty once they have been written.
    sectors: Vec<(usize, usize)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Flight {
    /// Numbers rise within a queue.
    pub(super) number: u64,
    pub(super) class: Class,
    pub(super) frame: Vec<u8>,
    /// What it takes of its queue.
    pub(super) record_bytes: usize,
    /// Whether the frame itself is there.
    pub(super) arrived: bool,
    payloads: Vec<Payload>,
    groups: Vec<Group>,
}

impl Flight {
    /// A frame that was sent and has yet to be posted.
    pub(super) fn new(
        number: u64,
        class: Class,
        frame: &[u8],
        record_bytes: usize,
        payloads: &[(Placement, Pages)],
    ) -> Flight {
        let payloads = payloads.iter().map(|(place, pages)| Payload {
            place: *place,
            source: Source::Pages(pages.clone()),
            sectors_left: pages.len() / SECTOR_BYTES,
        });
        Flight {
            number,
            class,
            frame: frame.to_vec(),
            record_bytes,
            arrived: false,
            payloads: payloads.collect(),
            groups: Vec::new(),
        }
    }

    /// Decides when the sectors will be written: between now and the frame's arrival.
    pub(super) fn plan(&mut self, now_ns: u64, arrival_ns: u64, random: &mut Random) {
        let mut sectors: Vec<(usize, usize)> = (0..)
            .zip(&self.payloads)
            .flat_map(|(index, payload)| (0..payload.sectors_left).map(move |at| (index, at)))
            .collect();
        for end in (1..sectors.len()).rev() {
            sectors.swap(end, random.below(end as u64 + 1) as usize);
        }
        for left in (1..=1 + random.below(GROUPS_MAX)).rev() {
            // The last group takes what is left.
            let rest = if left == 1 { 0 } else { random.below(sectors.len() as u64 + 1) as usize };
            let sectors = sectors.split_off(rest);
            if !sectors.is_empty() {
                let at_ns = random.within(now_ns..arrival_ns + 1);
                self.groups.push(Group { at_ns, sectors });
            }
        }
    }

    /// What is left of it comes later, if at all: at most `span_ns` from now.
    pub(super) fn delay(&mut self, now_ns: u64, span_ns: u64, random: &mut Random) {
        for group in self.groups.iter_mut().filter(|group| !group.sectors.is_empty()) {
            group.at_ns = now_ns + random.below(span_ns + 1);
        }
    }

    /// When each group is written that has not been.
    pub(super) fn times(&self) -> impl Iterator<Item = (usize, u64)> {
        let left = self.groups.iter().enumerate().filter(|(_, group)| !group.sectors.is_empty());
        left.map(|(index, group)| (index, group.at_ns))
    }

    /// Writes a group of sectors into the receiver's window. Answers how many there were, and how
    /// many pages of the sender were let go.
    pub(super) fn land(&mut self, group: usize, now_ns: u64, landing: &Landing) -> (u64, u32) {
        let group = &mut self.groups[group];
        if group.at_ns > now_ns {
            // It was put off; another entry of the agenda is for it.
            return (0, 0);
        }
        let sectors = std::mem::take(&mut group.sectors);
        let mut freed = 0;
        for (payload, sector) in &sectors {
            freed += self.payloads[*payload].write(*sector, landing);
        }
        (sectors.len() as u64, freed)
    }

    /// Whether frame and payloads are whole.
    pub(super) fn is_complete(&self) -> bool {
        self.arrived && self.payloads.iter().all(|payload| payload.sectors_left == 0)
    }

    /// The places of the payloads, in the order in which they were sent.
    pub(super) fn places(&self) -> impl Iterator<Item = Placement> {
        self.payloads.iter().map(|payload| payload.place)
    }

    /// The sender is gone: what has yet to be written is copied, and its pages are let go. Answers
    /// the bytes that were copied.
    pub(super) fn leave_sender(&mut self) -> u64 {
        let under_way = self.times().next().is_some();
        let mut copied = 0;
        for payload in &mut self.payloads {
            let Source::Pages(pages) = &payload.source else { continue };
            if !under_way {
                payload.source = Source::Done;
                continue;
            }
            let mut bytes = vec![0; pages.len()];
            pages.copy_to_slice(0, &mut bytes);
            copied += bytes.len() as u64;
            payload.source = Source::Wire(bytes);
        }
        copied
    }
}

impl Payload {
    /// Writes one sector; answers the pages of the sender that are let go by it.
    fn write(&mut self, sector: usize, landing: &Landing) -> u32 {
        let from = sector * SECTOR_BYTES;
        let page = self.place.page() + (from / PAGE_SIZE) as u32;
        let (view, at) = landing.locate(page);
        let to = at + from % PAGE_SIZE;
        match &self.source {
            Source::Pages(pages) => {
                view.copy_range_from_pages(to, pages, from..from + SECTOR_BYTES)
            }
            Source::Wire(bytes) => view.write_bytes(to, &bytes[from..from + SECTOR_BYTES]),
            Source::Done => {}
        }
        self.sectors_left -= 1;
        if self.sectors_left > 0 {
            return 0;
        }
        match std::mem::replace(&mut self.source, Source::Done) {
            Source::Pages(pages) => pages.pages(),
            Source::Wire(_) | Source::Done => 0,
        }
    }
}
