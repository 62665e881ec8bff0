//! One frame of each kind, byte for byte, as `docs/format/wire.md` lays it out.
//!
//! Where a field may hold anything, each of its bytes holds its own offset in the frame: a field
//! that moved, swapped places with another or changed its byte order shows in what is emitted, and
//! in what is read back from the same bytes.

use zerocopy::IntoBytes;

use super::super::*;
use crate::ids::{
    BlockRange, ChunkId, CopysetId, Epoch, LogIndex, ReplicaId, RequestNumber, SessionId, Term,
};

/// Reads lines of `offset: bytes`, in hex, that follow on from each other.
fn dump(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (at, row) = line.split_once(':').expect("an offset and bytes");
        assert_eq!(usize::from_str_radix(at, 16), Ok(bytes.len()), "offset of {line}");
        let row = row.split_whitespace();
        bytes.extend(row.map(|byte| u8::from_str_radix(byte, 16).expect("a byte")));
    }
    bytes
}

/// The little-endian number whose bytes hold their own offsets.
const fn u32_at(at: u8) -> u32 {
    u32::from_le_bytes([at, at + 1, at + 2, at + 3])
}

/// Likewise.
const fn u64_at(at: u8) -> u64 {
    u64_of(u32_at(at), u32_at(at + 4))
}

const fn u64_of(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

fn body_of(frame: &[u8], kind: FrameKind, count: u16) -> &[u8] {
    let (found, items, body) = parse_header(frame).expect("a whole frame");
    assert_eq!((found, items), (kind, count));
    body
}

#[test]
fn a_request() {
    let bytes = dump(
        "00: 01 00 01 00 58 00 00 00
         08: 01 00 00 00 0c 0d 0e 0f
         10: 10 11 12 13 14 15 16 17
         18: 18 19 1a 1b 1c 1d 1e 1f
         20: 20 21 22 23 02 00 00 00
         28: 28 29 2a 2b 00 00 00 00
         30: 30 31 32 33 34 35 36 37
         38: 38 39 3a 3b 3c 3d 3e 3f
         40: 40 41 42 43 44 45 46 47
         48: 48 49 4a 4b 4c 4d 4e 4f
         50: 50 51 52 53 54 55 56 57",
    );
    let crcs = [u32_at(0x50).to_le_bytes(), u32_at(0x54).to_le_bytes()].concat();
    let request = Request {
        kind: RequestKind::Write,
        copyset: CopysetId(u32_at(0x0c)),
        token: u64_at(0x10),
        chunk: ChunkId(u64_at(0x18)),
        range: BlockRange { first: u32_at(0x20), blocks: 2 },
        landing_page: u32_at(0x28),
        epoch: Epoch(u64_at(0x30)),
        session: SessionId(u64_at(0x38)),
        request: RequestNumber(u64_at(0x40)),
        sequence: u64_at(0x48),
        crcs: &crcs,
    };
    assert_eq!(request.emit(&mut [0xff; FRAME_BYTES_MAX]), bytes);
    let body = body_of(&bytes, FrameKind::Request, 1);
    assert_eq!(Request::parse(body), Ok(request));
    assert_eq!(request.crcs().collect::<Vec<_>>(), [u32_at(0x50), u32_at(0x54)]);
}

#[test]
fn a_reply() {
    let bytes = dump(
        "00: 02 00 01 00 2c 00 00 00
         08: 0d 00 0a 0b 04 00 00 00
         10: 10 11 12 13 14 15 16 17
         18: 18 19 1a 1b 1c 1d 1e 1f
         20: 20 21 22 23 24 25 26 27
         28: 28 29 2a 2b",
    );
    let reply = Reply {
        status: ReplyStatus::Deposed,
        blocks: 0x0b0a,
        token: u64_at(0x10),
        value: u64_at(0x18),
        index: u64_at(0x20),
        trailing: &u32_at(0x28).to_le_bytes(),
    };
    assert_eq!(reply.emit(&mut [0xff; FRAME_BYTES_MAX]), bytes);
    assert_eq!(Reply::parse(body_of(&bytes, FrameKind::Reply, 1)), Ok(reply));
    assert_eq!(reply.crcs().collect::<Vec<_>>(), [u32_at(0x28)]);
}

#[test]
fn appended_entries() {
    let bytes = dump(
        "00: 03 00 02 00 78 00 00 00
         08: 08 09 0a 0b 00 00 00 00
         10: 10 11 12 13 14 15 16 17
         18: 18 19 1a 1b 1c 1d 1e 1f
         20: 20 21 22 23 24 25 26 27
         28: 28 29 2a 2b 2c 2d 2e 2f
         30: 30 31 32 33 34 35 36 37
         38: 38 39 3a 3b 3c 3d 3e 3f
         40: 40 41 42 43 44 45 46 47
         48: 48 49 4a 4b 4c 4d 4e 4f
         50: 50 51 52 53 00 00 00 00
         58: 58 59 5a 5b 5c 5d 5e 5f
         60: 00 00 00 00 00 00 00 00
         68: 68 69 6a 6b 00 00 00 00
         70: 70 71 72 73 74 75 76 77",
    );
    let header = AppendHeader {
        copyset: CopysetId(u32_at(0x08)),
        from: ReplicaId(u64_at(0x10)),
        to: ReplicaId(u64_at(0x18)),
        term: Term(u64_at(0x20)),
        previous_index: LogIndex(u64_at(0x28)),
        previous_term: Term(u64_at(0x30)),
        commit: LogIndex(u64_at(0x38)),
        sent_ns: u64_at(0x40),
    };
    let mut writer = AppendWriter::default();
    writer.start(&header);
    // What records look like is pinned where they are made; here any bytes do.
    writer.push(&u64_at(0x58).to_le_bytes(), u32_at(0x50), Some(LogIndex(u64_at(0x48))));
    writer.push(&u64_at(0x70).to_le_bytes(), u32_at(0x68), None);
    assert_eq!(writer.frame(), bytes);
    let body = body_of(&bytes, FrameKind::Append, 2);
    let reader = AppendReader::parse(2, body).expect("a head");
    assert_eq!(reader.header(), &header);
}

#[test]
fn a_message_between_peers() {
    let bytes = dump(
        "00: 04 00 01 00 68 00 00 00
         08: 01 01 00 00 0c 0d 0e 0f
         10: 10 11 12 13 14 15 16 17
         18: 18 19 1a 1b 1c 1d 1e 1f
         20: 20 21 22 23 24 25 26 27
         28: 28 29 2a 2b 2c 2d 2e 2f
         30: 30 31 32 33 34 35 36 37
         38: 38 39 3a 3b 3c 3d 3e 3f
         40: 40 41 42 43 44 45 46 47
         48: 48 49 4a 4b 4c 4d 4e 4f
         50: 50 51 52 53 54 55 56 57
         58: 58 59 5a 5b 5c 5d 5e 5f
         60: 60 61 62 63 64 65 66 67",
    );
    let message = PeerMessage {
        kind: PeerMessageKind::AppendResponse,
        reject: true,
        copyset: CopysetId(u32_at(0x0c)),
        from: ReplicaId(u64_at(0x10)),
        to: ReplicaId(u64_at(0x18)),
        term: Term(u64_at(0x20)),
        log_term: Term(u64_at(0x28)),
        index: LogIndex(u64_at(0x30)),
        commit: LogIndex(u64_at(0x38)),
        commit_term: Term(u64_at(0x40)),
        reject_hint: LogIndex(u64_at(0x48)),
        request_snapshot: LogIndex(u64_at(0x50)),
        sent_ns: u64_at(0x58),
        context: u64_at(0x60),
    };
    let mut writer = PeerMessagesWriter::default();
    writer.push(&message);
    assert_eq!(writer.frame(), bytes);
    let body = body_of(&bytes, FrameKind::PeerMessages, 1);
    let read: Vec<_> = PeerMessages::parse(1, body).expect("one message").collect();
    assert_eq!(read, [Ok(message)]);
}

/// A catch-up's head as it stands in front of whatever follows it.
const CATCH_UP_HEAD: &str = "
         10: 10 11 12 13 14 15 16 17
         18: 18 19 1a 1b 1c 1d 1e 1f
         20: 20 21 22 23 24 25 26 27
         28: 28 29 2a 2b 2c 2d 2e 2f
         30: 30 31 32 33 34 35 36 37
         38: 38 39 3a 3b 3c 3d 3e 3f
         40: 40 41 42 43 44 45 46 47
         48: 48 49 4a 4b 4c 4d 4e 4f
         50: 50 51 52 53 54 55 56 57
         58: 58 59 5a 5b 5c 5d 5e 5f
         60: 60 61 62 63 64 65 66 67
         68: 68 69 6a 6b 00 00 00 00
";

fn catch_up_head(kind: CatchUpKind, first: bool, last: bool) -> CatchUpHead {
    CatchUpHead {
        kind,
        first,
        last,
        copyset: CopysetId(u32_at(0x0c)),
        from: ReplicaId(u64_at(0x10)),
        to: ReplicaId(u64_at(0x18)),
        term: Term(u64_at(0x20)),
        task: u64_at(0x28),
        number: u64_at(0x30),
        index: LogIndex(u64_at(0x38)),
        index_term: Term(u64_at(0x40)),
        chunk: ChunkId(u64_at(0x48)),
        birth: LogIndex(u64_at(0x50)),
        applied: LogIndex(u64_at(0x58)),
        since: LogIndex(u64_at(0x60)),
        total: u32_at(0x68),
    }
}

#[test]
fn steps_of_a_catch_up() {
    let item = ManifestItem {
        chunk: u64_at(0x70).into(),
        birth: u64_at(0x78).into(),
        applied: u64_at(0x80).into(),
        mapped: u32_at(0x88).into(),
        reserved: 0.into(),
    };
    let block = ChunkBlock {
        block: u32_at(0x70).into(),
        crc: u32_at(0x74).into(),
        index: u64_at(0x78).into(),
        mapped: u32_at(0x80).into(),
    };
    let name = ChunkName::from(u64_at(0x70));
    let manifest = "70: 70 71 72 73 74 75 76 77
         78: 78 79 7a 7b 7c 7d 7e 7f
         80: 80 81 82 83 84 85 86 87
         88: 88 89 8a 8b 00 00 00 00";
    let chunk = "70: 70 71 72 73 74 75 76 77
         78: 78 79 7a 7b 7c 7d 7e 7f
         80: 80 81 82 83";
    let retain = "70: 70 71 72 73 74 75 76 77";
    let cases = [
        (CatchUpKind::Manifest, true, false, "03 01", "90", item.as_bytes(), manifest),
        (CatchUpKind::Chunk, false, true, "04 02", "84", block.as_bytes(), chunk),
        (CatchUpKind::Retain, true, true, "05 03", "78", name.as_bytes(), retain),
    ];
    for (kind, first, last, step, length, items, rest) in cases {
        let bytes = dump(&format!(
            "00: 05 00 01 00 {length} 00 00 00
             08: {step} 00 00 0c 0d 0e 0f
             {CATCH_UP_HEAD}
             {rest}"
        ));
        let head = catch_up_head(kind, first, last);
        assert_eq!(emit_catch_up(&head, 1, items, &mut [0xff; FRAME_BYTES_MAX]), bytes);
        let (parsed, found) =
            parse_catch_up(body_of(&bytes, FrameKind::CatchUp, 1)).expect("a head");
        assert_eq!((parsed, found), (head, items));
    }
}

/// The numbers of the tables, in their order.
#[test]
fn kinds_and_statuses() {
    use CatchUpKind as Step;
    use PeerMessageKind as Message;
    use ReplyStatus as Status;
    let frames = [
        FrameKind::Request,
        FrameKind::Reply,
        FrameKind::Append,
        FrameKind::PeerMessages,
        FrameKind::CatchUp,
    ];
    assert_eq!(frames.map(|kind| kind as u8), [1, 2, 3, 4, 5]);
    let requests = [
        RequestKind::Write,
        RequestKind::Read,
        RequestKind::Discard,
        RequestKind::Delete,
        RequestKind::OpenSession,
        RequestKind::Fence,
        RequestKind::Status,
    ];
    assert_eq!(requests.map(|kind| kind as u8), [1, 2, 3, 4, 5, 6, 7]);
    let statuses = [
        Status::Ok,
        Status::NotLeader,
        Status::Busy,
        Status::NoSpace,
        Status::Fenced,
        Status::NoSession,
        Status::BelowWindow,
        Status::OutOfRange,
        Status::NoCopyset,
        Status::PayloadChecksum,
        Status::Media,
        Status::Malformed,
        Status::DeviceFailed,
        Status::Deposed,
    ];
    assert_eq!(statuses.map(|kind| kind as u8), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    let messages = [
        Message::AppendResponse,
        Message::RequestVote,
        Message::RequestVoteResponse,
        Message::RequestPreVote,
        Message::RequestPreVoteResponse,
        Message::Heartbeat,
        Message::HeartbeatResponse,
        Message::TimeoutNow,
        Message::Snapshot,
    ];
    assert_eq!(messages.map(|kind| kind as u8), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let steps = [
        Step::Begin,
        Step::List,
        Step::Manifest,
        Step::Chunk,
        Step::Retain,
        Step::State,
        Step::Done,
        Step::Abort,
    ];
    assert_eq!(steps.map(|kind| kind as u8), [1, 2, 3, 4, 5, 6, 7, 8]);
}
