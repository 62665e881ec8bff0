//! What entries do, and what requests are told.

use proptest::prelude::*;

use crate::copyset::*;
use crate::ids::{BatchNumber, BlockRange, ChunkId, RequestNumber};
use crate::record::{Proposal, RECORD_BYTES_MAX};
use crate::store::Geometry;

const CHUNK_BLOCKS: u32 = 64;

struct Group {
    state: CopysetState,
    store: Store,
}

fn request(operation: Operation, session: u64, number: u64) -> Request {
    Request {
        operation,
        chunk: ChunkId(1),
        range: BlockRange { first: 0, blocks: 1 },
        epoch: Epoch(0),
        session: SessionId(session),
        request: RequestNumber(number),
    }
}

impl Group {
    fn new(quota: u64) -> Group {
        let geometry = Geometry { data_blocks: 256, chunk_blocks: CHUNK_BLOCKS, deallocate: false };
        Group { state: CopysetState::new(CopysetId(4), quota), store: Store::new(geometry) }
    }

    fn admit(&self, request: &Request) -> Admission {
        self.state.admit(request, &self.store)
    }

    /// Proposes at the next index behind `ahead` others.
    fn propose(&mut self, request: &Request, ahead: u64) -> Admission {
        let admission = self.admit(request);
        if let Admission::Fresh { charge } = admission {
            self.state.proposed(LogIndex(self.state.applied().0 + 1 + ahead), charge);
        }
        admission
    }

    fn apply(&mut self, request: &Request) -> Applied {
        let write = request.operation == Operation::Write;
        let blocks = if write { request.range.blocks } else { 0 };
        let crcs = vec![9; blocks as usize];
        // Each session is of another client.
        let mut body = [0; 16];
        body[..8].copy_from_slice(&self.state.applied().0.to_le_bytes());
        let proposal = Proposal {
            operation: request.operation,
            chunk: request.chunk,
            range: request.range,
            sequence: 0,
            epoch: request.epoch,
            session: request.session,
            request: request.request,
            crcs: &crcs,
            body: if request.operation == Operation::OpenSession { &body } else { &[] },
        };
        let mut out = [0; RECORD_BYTES_MAX];
        let index = self.state.applied().next();
        let bytes = proposal.emit(CopysetId(4), Term(1), index, &mut out);
        let record = RecordView::parse(bytes).expect("own record");
        let extents = if write {
            self.store.allocate(blocks).expect("room")
        } else {
            [].into_iter().collect()
        };
        self.state.apply(record, &extents, &mut self.store)
    }

    fn result(&mut self, request: &Request) -> ResultCode {
        self.apply(request).result
    }

    /// Blocks that are used, everything released being free.
    fn used(&mut self) -> u64 {
        let batch = BatchNumber(self.state.applied().0 + 1);
        self.store.seal(batch);
        self.store.durable(batch);
        while self.store.reclaim() {}
        assert_eq!(self.store.verify([], &[]), Ok(0));
        256 - self.store.statistics().free_blocks
    }
}

#[test]
fn a_repeated_request_takes_effect_once() {
    let mut group = Group::new(100);
    assert_eq!(group.apply(&request(Operation::OpenSession, 0, 0)).opened, Some(SessionId(1)));
    let write = request(Operation::Write, 1, 1);
    assert_eq!(group.admit(&write), Admission::Fresh { charge: 1 });
    assert_eq!(group.result(&write), ResultCode::Ok);
    assert_eq!(group.admit(&write), Admission::Repeated);
    assert_eq!(group.result(&request(Operation::Delete, 1, 2)), ResultCode::Ok);
    assert_eq!(group.result(&write), ResultCode::Ok, "the stored result");
    assert_eq!(group.store.mapped_blocks(CopysetId(4)), 0, "and no effect");
    assert_eq!(group.used(), 0, "and no leak");
}

#[test]
fn sessions_are_opened_each_time_and_expire() {
    let mut group = Group::new(100);
    let open = request(Operation::OpenSession, 0, 0);
    assert_eq!(group.apply(&open).opened, Some(SessionId(1)));
    assert_eq!(group.apply(&open).opened, Some(SessionId(2)));
    assert_eq!(group.state.sessions(), 2);
    let write = request(Operation::Write, 1, 1);
    assert_eq!(group.result(&write), ResultCode::Ok);
    assert_eq!(group.result(&request(Operation::ExpireSession, 1, 0)), ResultCode::Ok);
    assert_eq!(group.result(&request(Operation::ExpireSession, 1, 0)), ResultCode::NoSession);
    assert_eq!(group.admit(&write), Admission::Refused(Refusal::NoSession));
    assert_eq!(group.result(&write), ResultCode::NoSession);
    assert_eq!(group.result(&request(Operation::Write, 2, 1)), ResultCode::Ok);
    assert_eq!(group.used(), 1);
}

#[test]
fn the_number_of_sessions_is_bounded() {
    let mut group = Group::new(100);
    let open = request(Operation::OpenSession, 0, 0);
    for _ in 0..SESSIONS_MAX {
        assert_eq!(group.result(&open), ResultCode::Ok);
    }
    assert_eq!(group.admit(&open), Admission::Refused(Refusal::SessionsFull));
    assert_eq!(group.apply(&open), Applied { result: ResultCode::SessionsFull, opened: None });
    assert_eq!(group.result(&request(Operation::ExpireSession, 5, 0)), ResultCode::Ok);
    assert_eq!(group.result(&open), ResultCode::Ok);
}

#[test]
fn a_fence_refuses_older_epochs_at_admission_and_at_apply() {
    let mut group = Group::new(100);
    let old = request(Operation::Write, 0, 0);
    assert_eq!(group.admit(&old), Admission::Fresh { charge: 1 });
    let fence = Request { epoch: Epoch(3), ..request(Operation::Fence, 0, 0) };
    assert_eq!(group.result(&fence), ResultCode::Ok);
    assert_eq!(group.result(&fence), ResultCode::Ok, "it is raised already");
    assert_eq!(group.state.epoch(), Epoch(3));
    // It was admitted before the fence was applied.
    assert_eq!(group.result(&old), ResultCode::Fenced);
    let current = Epoch(3);
    assert_eq!(group.admit(&old), Admission::Refused(Refusal::Fenced { current }));
    let lower = Request { epoch: Epoch(2), ..fence };
    assert_eq!(group.result(&lower), ResultCode::Fenced);
    assert_eq!(group.result(&Request { epoch: Epoch(3), ..old }), ResultCode::Ok);
    assert_eq!(group.result(&request(Operation::Noop, 0, 0)), ResultCode::Ok);
    assert_eq!(group.used(), 1);
}

#[test]
fn a_fenced_request_may_come_again_with_the_new_epoch() {
    let mut group = Group::new(100);
    group.apply(&request(Operation::OpenSession, 0, 0));
    let done = request(Operation::Write, 1, 1);
    group.apply(&done);
    group.apply(&Request { epoch: Epoch(3), ..request(Operation::Fence, 0, 0) });
    let late = request(Operation::Write, 1, 2);
    assert_eq!(group.result(&late), ResultCode::Fenced);
    assert_eq!(group.result(&Request { epoch: Epoch(3), ..late }), ResultCode::Ok);
    assert_eq!(group.result(&done), ResultCode::Ok, "what was done before the fence was done");
}

#[test]
fn ranges_lie_within_a_chunk() {
    let mut group = Group::new(100);
    let write = |first, blocks| Request {
        range: BlockRange { first, blocks },
        ..request(Operation::Write, 0, 0)
    };
    let out = Admission::Refused(Refusal::OutOfRange);
    assert_eq!(group.admit(&write(32, 32)), Admission::Fresh { charge: 32 });
    for (first, blocks) in [(33, 32), (64, 1), (u32::MAX, 1), (0, 0), (0, 33)] {
        assert_eq!(group.admit(&write(first, blocks)), out);
    }
    assert_eq!(group.result(&write(60, 5)), ResultCode::OutOfRange);
    let discard = Request { operation: Operation::Discard, ..write(0, 64) };
    assert_eq!(group.admit(&discard), Admission::Fresh { charge: 0 });
    let discard = Request { range: BlockRange { first: 1, blocks: 64 }, ..discard };
    assert_eq!(group.result(&discard), ResultCode::OutOfRange);
    group.apply(&request(Operation::OpenSession, 0, 0));
    assert_eq!(
        group.admit(&request(Operation::Write, 3, 0)),
        out,
        "a session's request without number"
    );
    assert_eq!(group.used(), 0);
}

#[test]
fn what_a_discard_unmaps_is_not_promised_twice() {
    let mut group = Group::new(2);
    let block = |operation, first| Request {
        range: BlockRange { first, blocks: 1 },
        ..request(operation, 0, 0)
    };
    let write = |first| block(Operation::Write, first);
    group.apply(&write(0));
    group.apply(&write(1));
    let full = Admission::Refused(Refusal::NoSpace);
    assert_eq!(group.admit(&write(2)), full);
    assert_eq!(group.propose(&block(Operation::Discard, 0), 0), Admission::Fresh { charge: 0 });
    assert_eq!(group.propose(&write(0), 1), Admission::Fresh { charge: 0 }, "an overwrite fits");
    assert_eq!(group.admit(&write(2)), full, "nothing is unmapped yet");
    group.apply(&block(Operation::Discard, 0));
    assert_eq!(group.admit(&write(2)), full, "the write of block 0 is still to come");
    group.apply(&write(0));
    assert_eq!(group.admit(&write(2)), full);
    group.apply(&request(Operation::Delete, 0, 0));
    assert_eq!(group.propose(&write(2), 0), Admission::Fresh { charge: 1 });
    assert_eq!(group.propose(&write(3), 1), Admission::Fresh { charge: 1 });
    assert_eq!(group.admit(&write(4)), full, "what is in flight counts");
    group.state.reset_leadership();
    assert_eq!(group.admit(&write(4)), Admission::Fresh { charge: 1 });
}

proptest! {
    /// Whatever is admitted and in whatever depth it is in flight, the quota holds.
    #[test]
    fn the_quota_is_never_exceeded(
        steps in prop::collection::vec((0_u8..10, 0_u32..60, 1_u32..5, 0_usize..6), 1..200)
    ) {
        let mut group = Group::new(20);
        let mut in_flight = std::collections::VecDeque::new();
        for (kind, first, blocks, depth) in steps {
            let operation = match kind {
                0 => Operation::Delete,
                1..3 => Operation::Discard,
                _ => Operation::Write,
            };
            let range = BlockRange { first, blocks };
            let request = Request { range, ..request(operation, 0, 0) };
            let unmapped =
                group.store.unmapped_in(ChunkKey { copyset: CopysetId(4), chunk: ChunkId(1) }, range);
            match group.propose(&request, in_flight.len() as u64) {
                Admission::Fresh { .. } => in_flight.push_back(request),
                Admission::Refused(Refusal::NoSpace) => {
                    prop_assert!(operation == Operation::Write && unmapped > 0);
                }
                other => prop_assert!(false, "{other:?}"),
            }
            while in_flight.len() > depth {
                let request = in_flight.pop_front().expect("not empty");
                prop_assert_eq!(group.result(&request), ResultCode::Ok);
                prop_assert!(group.store.mapped_blocks(CopysetId(4)) <= 20);
                group.used();
            }
        }
    }
}
