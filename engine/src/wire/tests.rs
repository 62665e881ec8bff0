mod bytes;

use super::*;
use crate::ids::{
    BlockRange, ChunkId, CopysetId, Epoch, LogIndex, ReplicaId, RequestNumber, SessionId, Term,
};
use crate::record::{Proposal, RECORD_BYTES_MAX};

fn request(crcs: &[u8]) -> Request<'_> {
    Request {
        kind: RequestKind::Write,
        token: 0x1111,
        copyset: CopysetId(4),
        chunk: ChunkId(9),
        range: BlockRange { first: 3, blocks: 1 },
        landing_page: 0,
        epoch: Epoch(1),
        session: SessionId(2),
        request: RequestNumber(5),
        sequence: 0,
        crcs,
    }
}

#[test]
fn request_is_pinned_and_round_trips() {
    let mut out = [0; FRAME_BYTES_MAX];
    let crcs = 7u32.to_le_bytes();
    let frame = request(&crcs).emit(&mut out);
    assert_eq!(frame.len(), 84);
    assert_eq!(&frame[..16], [1, 0, 1, 0, 84, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0]);
    let (kind, count, body) = parse_header(frame).expect("header");
    assert_eq!((kind, count), (FrameKind::Request, 1));
    assert_eq!(Request::parse(body).expect("body"), request(&crcs));
    for cut in 0..body.len() {
        assert!(Request::parse(&body[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn reply_round_trips() {
    let mut out = [0; FRAME_BYTES_MAX];
    let reply = Reply {
        value: 5,
        index: 6,
        blocks: 1,
        trailing: &[1, 2, 3, 4],
        ..Reply::new(ReplyStatus::Ok, 77)
    };
    let frame = reply.emit(&mut out);
    let (kind, _, body) = parse_header(frame).expect("header");
    assert_eq!(kind, FrameKind::Reply);
    assert_eq!(Reply::parse(body).expect("body"), reply);
    assert!(Reply::parse(&body[..body.len() - 1]).is_err());
}

#[test]
fn a_lying_header_is_refused() {
    let mut out = [0; FRAME_BYTES_MAX];
    let length = Reply::new(ReplyStatus::Ok, 1).emit(&mut out).len();
    assert!(matches!(parse_header(&out[..length - 1]), Err(FrameError::Length { .. })));
    assert_eq!(parse_header(&out[..4]).unwrap_err(), FrameError::Truncated);
    out[0] = 99;
    assert_eq!(parse_header(&out[..length]).unwrap_err(), FrameError::Kind(99));
}

fn heartbeat(copyset: u32) -> PeerMessage {
    PeerMessage {
        kind: PeerMessageKind::Heartbeat,
        reject: false,
        copyset: CopysetId(copyset),
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(3),
        log_term: Term(0),
        index: LogIndex(0),
        commit: LogIndex(8),
        commit_term: Term(0),
        reject_hint: LogIndex(0),
        request_snapshot: LogIndex(0),
        sent_ns: 12345,
        context: 0,
    }
}

#[test]
fn many_copysets_share_a_frame() {
    let mut writer = PeerMessagesWriter::default();
    let mut pushed = 0;
    while !writer.is_full() {
        writer.push(&heartbeat(pushed));
        pushed += 1;
    }
    let frame = writer.frame().to_vec();
    let (_, count, body) = parse_header(&frame).expect("header");
    let read: Vec<_> =
        PeerMessages::parse(count, body).expect("count").map(|m| m.expect("message")).collect();
    assert_eq!(read.len(), pushed as usize);
    assert_eq!(read[7], heartbeat(7));
    assert!(PeerMessages::parse(count + 1, body).is_err());
}

#[test]
fn append_frames_carry_consecutive_records() {
    let header = AppendHeader {
        copyset: CopysetId(4),
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(3),
        previous_index: LogIndex(10),
        previous_term: Term(3),
        commit: LogIndex(9),
        sent_ns: 1,
    };
    let mut record = [0; RECORD_BYTES_MAX];
    let mut writer = AppendWriter::default();
    writer.start(&header);
    for index in 11..14 {
        let bytes = Proposal::noop().emit(CopysetId(4), Term(3), LogIndex(index), &mut record);
        writer.push(bytes, 0, None);
    }
    let frame = writer.frame().to_vec();
    let (_, count, body) = parse_header(&frame).expect("header");
    let mut reader = AppendReader::parse(count, body).expect("append");
    assert_eq!(reader.header(), &header);
    let mut seen = Vec::new();
    while let Some(entry) = reader.next_entry().expect("entry") {
        seen.push((entry.record.index().0, entry.superseded_by));
    }
    assert_eq!(seen, [(11, None), (12, None), (13, None)]);

    let mut gap = AppendReader::parse(count - 1, &body[..body.len()]).expect("append");
    gap.next_entry().expect("first");
    gap.next_entry().expect("second");
    assert!(gap.next_entry().is_err(), "trailing bytes are a lie");
}

#[test]
fn superseded_entries_say_which_blocks_are_live() {
    let header = AppendHeader {
        copyset: CopysetId(4),
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(3),
        previous_index: LogIndex(10),
        previous_term: Term(3),
        commit: LogIndex(9),
        sent_ns: 1,
    };
    let proposal = Proposal {
        operation: crate::record::Operation::Write,
        range: BlockRange { first: 0, blocks: 2 },
        crcs: &[1, 2],
        ..Proposal::noop()
    };
    let mut bytes = [0; RECORD_BYTES_MAX];
    let record = proposal.emit(CopysetId(4), Term(3), LogIndex(11), &mut bytes);
    let read = |mask: u32, by: Option<LogIndex>| {
        let mut writer = AppendWriter::default();
        writer.start(&header);
        writer.push(record, mask, by);
        let frame = writer.frame().to_vec();
        let (_, count, body) = parse_header(&frame).expect("header");
        let mut reader = AppendReader::parse(count, body).expect("append");
        reader.next_entry().map(|entry| entry.map(|entry| (entry.live_mask, entry.superseded_by)))
    };
    assert_eq!(read(3, None), Ok(Some((3, None))));
    assert_eq!(read(1, Some(LogIndex(12))), Ok(Some((1, Some(LogIndex(12))))));
    assert!(read(1, None).is_err(), "a missing block must be excused");
    assert!(read(3, Some(LogIndex(12))).is_err(), "an excuse must be needed");
    assert!(read(4, Some(LogIndex(12))).is_err(), "block outside of the range");
    assert!(read(1, Some(LogIndex(10))).is_err(), "superseded by what came before");
    assert!(read(1, Some(LogIndex(11))).is_ok(), "it was not carried out");
}

#[test]
fn catch_up_frames_round_trip() {
    use zerocopy::IntoBytes;
    let head = CatchUpHead {
        kind: CatchUpKind::Chunk,
        first: true,
        last: false,
        copyset: CopysetId(4),
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(3),
        task: 8,
        number: 9,
        index: LogIndex(10),
        index_term: Term(3),
        chunk: ChunkId(11),
        birth: LogIndex(5),
        applied: LogIndex(10),
        since: LogIndex(6),
        total: 12,
    };
    let blocks = [ChunkBlock { block: 7.into(), crc: 8.into(), index: 9.into(), mapped: 1.into() }];
    let mut out = [0; FRAME_BYTES_MAX];
    let frame = emit_catch_up(&head, 1, blocks.as_bytes(), &mut out);
    assert_eq!(frame.len(), 8 + 104 + 20);
    let (kind, count, body) = parse_header(frame).expect("header");
    assert_eq!(kind, FrameKind::CatchUp);
    let (parsed, rest) = parse_catch_up(body).expect("catch-up");
    assert_eq!(parsed, head);
    let items: &[ChunkBlock] = catch_up_items(count, rest).expect("items");
    assert_eq!((items.len(), items[0].index.get()), (1, 9));
    assert!(catch_up_items::<ChunkBlock>(2, rest).is_err());
    assert!(catch_up_items::<ChunkBlock>(1, &rest[1..]).is_err());
    assert!(parse_catch_up(&body[..103]).is_err());
}
