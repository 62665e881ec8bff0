//! Frames between clients and nodes.

use culvert::ids::{
    BlockRange, ChunkId, CopysetId, Epoch, LogIndex, ReplicaId, RequestNumber, SessionId, Term,
};
use culvert::record::RECORD_BYTES_MAX;
use culvert::wire::{
    AppendHeader, AppendReader, AppendWriter, CATCH_UP_BODY_BYTES, CatchUpHead, CatchUpKind,
    ChunkBlock, ChunkName, FRAME_HEADER_BYTES, FrameKind, ManifestItem, PeerMessage,
    PeerMessageKind, PeerMessages, PeerMessagesWriter, RepairFrame, RepairKind, Reply, ReplyStatus,
    Request, RequestKind, catch_up_items, emit_catch_up, live_mask_of, parse_catch_up,
    parse_header,
};

use crate::{record, set};

/// Bytes before the entries of an append frame, and before the record of each entry.
const APPEND_HEAD_BYTES: usize = FRAME_HEADER_BYTES + 64;
const ENTRY_HEAD_BYTES: usize = 16;

/// Looks at any bytes as a frame.
pub fn run(bytes: &[u8]) {
    look(bytes);
    let mut bytes = bytes.to_vec();
    let length = (bytes.len() as u32).to_le_bytes();
    set(&mut bytes, 1, &[0]);
    set(&mut bytes, 4, &length);
    if bytes.first() == Some(&(FrameKind::Append as u8)) {
        repair_records(&mut bytes);
    }
    look(&bytes);
}

fn repair_records(bytes: &mut [u8]) {
    let mut at = APPEND_HEAD_BYTES + ENTRY_HEAD_BYTES;
    while at < bytes.len() {
        let length = record::repair(&mut bytes[at..]);
        if length == 0 {
            break;
        }
        at += length + ENTRY_HEAD_BYTES;
    }
}

fn look(bytes: &[u8]) {
    let Ok((kind, count, body)) = parse_header(bytes) else { return };
    // Room for the longest frame of each kind that can be emitted from so many bytes.
    let mut out = vec![0; bytes.len() + FRAME_HEADER_BYTES];
    match kind {
        FrameKind::Request => look_at_request(body, &mut out),
        FrameKind::Reply => look_at_reply(body, &mut out),
        FrameKind::Append => look_at_append(count, body),
        FrameKind::PeerMessages => look_at_messages(count, body),
        FrameKind::CatchUp => look_at_catch_up(count, body, &mut out),
        FrameKind::Repair => look_at_repair(count, body),
    }
}

fn look_at_request(body: &[u8], out: &mut [u8]) {
    let Ok(request) = Request::parse(body) else { return };
    let crcs = request.crcs().count() as u32;
    assert_eq!(crcs, if request.kind == RequestKind::Write { request.range.blocks } else { 0 });
    let emitted = request.emit(out);
    assert_eq!(&emitted[FRAME_HEADER_BYTES..], body);
}

fn look_at_reply(body: &[u8], out: &mut [u8]) {
    let Ok(reply) = Reply::parse(body) else { return };
    reply.crcs().for_each(drop);
    let emitted = reply.emit(out);
    assert_eq!(&emitted[FRAME_HEADER_BYTES..], body);
}

fn look_at_append(count: u16, body: &[u8]) {
    let Ok(mut reader) = AppendReader::parse(count, body) else { return };
    let first = reader.header().previous_index;
    let mut entries = 0;
    while let Ok(Some(entry)) = reader.next_entry() {
        entries += 1;
        assert_eq!(entry.record.index().0, first.0 + entries);
        assert_eq!(entry.record.copyset(), reader.header().copyset);
        assert_eq!(entry.live_mask & !live_mask_of(entry.record.payload_blocks()), 0);
        entry.record.crcs().for_each(drop);
    }
    assert_eq!(u64::from(count - reader.remaining()), entries);
}

fn look_at_messages(count: u16, body: &[u8]) {
    let Ok(messages) = PeerMessages::parse(count, body) else { return };
    let mut writer = PeerMessagesWriter::default();
    let mut seen = 0;
    for message in messages {
        seen += 1;
        let Ok(message) = message else { continue };
        writer.clear();
        writer.push(&message);
        let (_, one, body) = parse_header(writer.frame()).expect("a frame of our own");
        let again = PeerMessages::parse(one, body).expect("as above").next();
        assert_eq!(again, Some(Ok(message)));
    }
    assert_eq!(seen, count);
}

fn look_at_catch_up(count: u16, body: &[u8], out: &mut [u8]) {
    let Ok((head, rest)) = parse_catch_up(body) else { return };
    let items = match head.kind {
        CatchUpKind::Manifest => catch_up_items::<ManifestItem>(count, rest).map(<[_]>::len),
        CatchUpKind::Chunk => catch_up_items::<ChunkBlock>(count, rest).map(<[_]>::len),
        CatchUpKind::Retain => catch_up_items::<ChunkName>(count, rest).map(<[_]>::len),
        _ => Ok(usize::from(count)),
    };
    assert!(items.is_err() || items == Ok(usize::from(count)));
    if rest.len() <= CATCH_UP_BODY_BYTES {
        let emitted = emit_catch_up(&head, count, rest, out);
        let (kind, again, body) = parse_header(emitted).expect("a frame of our own");
        assert_eq!((kind, again), (FrameKind::CatchUp, count));
        assert_eq!(parse_catch_up(body), Ok((head, rest)));
    }
}

fn look_at_repair(count: u16, body: &[u8]) {
    let Ok(frame) = RepairFrame::parse(count, body) else { return };
    let emitted = frame.emit();
    let (kind, count, body) = parse_header(&emitted).expect("a frame of our own");
    assert_eq!(kind, FrameKind::Repair);
    assert_eq!(RepairFrame::parse(count, body), Ok(frame));
}

/// A frame of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut out = [0; 1024];
    let request = Request {
        kind: RequestKind::Write,
        token: 11,
        copyset: CopysetId(3),
        chunk: ChunkId(5),
        range: BlockRange { first: 4, blocks: 2 },
        landing_page: 0,
        epoch: Epoch(1),
        session: SessionId(6),
        request: RequestNumber(7),
        sequence: 0,
        crcs: &[1, 2, 3, 4, 5, 6, 7, 8],
    };
    let read = Request { kind: RequestKind::Read, landing_page: 9, crcs: &[], ..request };
    let reply = Reply { blocks: 2, trailing: &[9; 8], ..Reply::new(ReplyStatus::Ok, 11) };
    let mut frames = vec![
        request.emit(&mut out).to_vec(),
        read.emit(&mut out).to_vec(),
        reply.emit(&mut out).to_vec(),
        Reply::new(ReplyStatus::NotLeader, 12).emit(&mut out).to_vec(),
        append(),
        messages(),
    ];
    frames.extend(catch_up());
    frames.push(repair().emit().to_vec());
    frames.push(repair().answer(RepairKind::Found).emit().to_vec());
    frames
}

fn repair() -> RepairFrame {
    RepairFrame {
        kind: RepairKind::Ask,
        copyset: CopysetId(3),
        from: ReplicaId(31),
        to: ReplicaId(32),
        number: 1,
        chunk: ChunkId(5),
        index: LogIndex(8),
        block: 4,
        crc: 0x1234_5678,
    }
}

fn append() -> Vec<u8> {
    let header = AppendHeader {
        copyset: CopysetId(3),
        from: ReplicaId(31),
        to: ReplicaId(32),
        term: Term(2),
        previous_index: LogIndex(8),
        previous_term: Term(1),
        commit: LogIndex(7),
        sent_ns: 1,
    };
    let mut writer = AppendWriter::default();
    writer.start(&header);
    let mut out = [0; RECORD_BYTES_MAX];
    writer.push(record::sample(&mut out), 1, Some(LogIndex(10)));
    let noop = culvert::record::Proposal::noop();
    writer.push(noop.emit(CopysetId(3), Term(2), LogIndex(10), &mut out), 0, None);
    writer.frame().to_vec()
}

fn messages() -> Vec<u8> {
    let message = PeerMessage {
        kind: PeerMessageKind::Heartbeat,
        reject: false,
        copyset: CopysetId(3),
        from: ReplicaId(31),
        to: ReplicaId(32),
        term: Term(2),
        log_term: Term(1),
        index: LogIndex(8),
        commit: LogIndex(7),
        commit_term: Term(1),
        reject_hint: LogIndex(0),
        request_snapshot: LogIndex(0),
        sent_ns: 1,
        context: 2,
    };
    let mut writer = PeerMessagesWriter::default();
    writer.push(&message);
    writer.push(&PeerMessage { copyset: CopysetId(4), reject: true, ..message });
    writer.frame().to_vec()
}

fn catch_up() -> Vec<Vec<u8>> {
    let head = CatchUpHead {
        kind: CatchUpKind::Begin,
        first: true,
        last: true,
        copyset: CopysetId(3),
        from: ReplicaId(31),
        to: ReplicaId(32),
        term: Term(2),
        task: 1,
        number: 1,
        index: LogIndex(9),
        index_term: Term(2),
        chunk: ChunkId(5),
        birth: LogIndex(2),
        applied: LogIndex(9),
        since: LogIndex(1),
        total: 1,
    };
    let bodies: [(CatchUpKind, u16, usize); 5] = [
        (CatchUpKind::Begin, 0, 12),
        (CatchUpKind::Manifest, 1, size_of::<ManifestItem>()),
        (CatchUpKind::Chunk, 2, 2 * size_of::<ChunkBlock>()),
        (CatchUpKind::Retain, 1, size_of::<ChunkName>()),
        (CatchUpKind::Done, 0, 0),
    ];
    let mut out = [0; 1024];
    let emit = |(kind, count, bytes)| {
        emit_catch_up(&CatchUpHead { kind, ..head }, count, &[1; 64][..bytes], &mut out).to_vec()
    };
    bodies.map(emit).to_vec()
}
