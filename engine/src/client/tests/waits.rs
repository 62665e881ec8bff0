//! What waits by the real clock: blocking calls and transfers.

use sha2::{Digest, Sha256};

use super::world::Faults;
use super::*;

fn blocking(seed: u64) -> (BlockingClient<ModelNetwork>, ModelNetwork, VolumeHandle) {
    let Bench { client, network, volume, .. } = Bench::new(seed, 16, ClientOptions::default());
    network.0.borrow_mut().delay_ns = 1000;
    (BlockingClient::new(client), network, volume)
}

/// Bytes that the modelled servers take for content.
fn blocks(first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(|block| content(block % 7, block)).collect()
}

#[test]
fn blocking_calls_return_what_they_did() {
    let (mut client, network, volume) = blocking(1);
    client.write_bytes(volume, 10, &blocks(10, 400)).expect("written");
    let mut read = vec![1; 401 * BLOCK_SIZE];
    client.read_bytes(volume, 10, &mut read).expect("read");
    assert!(read[..400 * BLOCK_SIZE] == blocks(10, 400));
    assert!(read[400 * BLOCK_SIZE..].iter().all(|byte| *byte == 0));
    client.discard(volume, 0, 2048).expect("discarded");
    client.read_bytes(volume, 10, &mut read).expect("read");
    assert!(read.iter().all(|byte| *byte == 0));
    network.0.borrow_mut().servers.status = "{\"node\": 1}".into();
    let status = client.fetch_status(EndpointIndex { node: 0, reactor: 0 });
    assert_eq!(status.as_deref(), Ok("{\"node\": 1}"));
    let past = client.write_bytes(volume, 2048, &blocks(0, 1));
    assert_eq!(past, Err(BlockingError::Refused(Refusal::OutOfRange)));
    network.0.borrow_mut().servers.verdict = Some((crate::wire::ReplyStatus::NoSpace, 0));
    let full = client.write_bytes(volume, 0, &blocks(0, 1));
    assert_eq!(full, Err(BlockingError::Client(ClientError::NoSpace)));
}

/// Offsets are counted in blocks, so only a length can be out of line.
#[test]
fn bytes_that_are_not_whole_blocks_are_refused() {
    let (mut client, network, volume) = blocking(3);
    client.write_bytes(volume, 10, &blocks(10, 2)).expect("written");
    let before = client.client().statistics().submitted;
    for bytes in [1, BLOCK_SIZE - 1, BLOCK_SIZE + 1, 300 * BLOCK_SIZE + 512] {
        let unaligned = Err(BlockingError::Unaligned { bytes });
        assert_eq!(client.write_bytes(volume, 10, &blocks(10, 301)[..bytes]), unaligned);
        assert_eq!(client.read_bytes(volume, 10, &mut vec![0; bytes]), unaligned);
    }
    assert_eq!(client.client().statistics().submitted, before, "not even in part");
    let words = BlockingError::Unaligned { bytes: 4097 }.to_string();
    assert_eq!(words, "4097 bytes are not whole blocks of 4096 bytes");
    let mut read = vec![1; 2 * BLOCK_SIZE];
    client.read_bytes(volume, 10, &mut read).expect("it goes on");
    assert!(read == blocks(10, 2));
    drop(network);
}

#[test]
fn files_go_in_and_come_out() {
    for (blocks_of_file, cut) in [(0, 0), (1, 0), (1, 4000), (300, 0), (777, 1), (2048, 0)] {
        let (client, network, volume) = blocking(2);
        network.0.borrow_mut().faults = Faults { change_leader: 1, ..Faults::default() };
        let (mut client, clock) = client.into_parts();
        let whole = blocks(0, blocks_of_file);
        // The modelled servers know only whole blocks, so that a cut must be in the zeroes of one.
        let file = match cut {
            0 => whole.clone(),
            _ => [&whole[..whole.len() - BLOCK_SIZE], &vec![0; BLOCK_SIZE - cut]].concat(),
        };
        let (mut told, mut last) = (0, 0);
        let report = import(
            &mut client,
            &clock,
            volume,
            &mut &file[..],
            &TransferOptions::default(),
            &mut |bytes| {
                assert!(bytes > last);
                (told, last) = (told + 1, bytes);
            },
        )
        .expect("imported");
        assert_eq!(report.bytes, file.len() as u64);
        assert_eq!(report.sha256, <[u8; 32]>::from(Sha256::digest(&file)));
        assert_eq!((told > 0, last), (!file.is_empty(), file.len() as u64));

        let mut out = Vec::new();
        let options = TransferOptions { depth: 3, operation_blocks: 100 };
        let report =
            export(&mut client, &clock, volume, &mut out, &options, &mut |_| {}).expect("exported");
        assert_eq!(report.bytes, volume.bytes());
        assert_eq!(report.sha256, <[u8; 32]>::from(Sha256::digest(&out)));
        assert!(out[..file.len()] == file);
        assert!(out[file.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(client.pool().free_pages(), client.pool().total_pages());
    }
}

struct Broken(u64);

impl std::io::Read for Broken {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| std::io::Error::other("broken"))?;
        let count = bytes.len().min(100);
        bytes[..count].fill(0);
        Ok(count)
    }
}

impl std::io::Write for Broken {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| std::io::Error::other("broken"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn transfers_that_fail_leave_the_client_free() {
    let (client, network, volume) = blocking(3);
    let (mut client, clock) = client.into_parts();
    let options = TransferOptions { depth: 2, operation_blocks: 16 };
    let start = |client: &mut Client<ModelNetwork>, source: &mut dyn std::io::Read| {
        import(client, &clock, volume, source, &options, &mut |_| {}).expect_err("it fails")
    };
    let long = blocks(0, 2049);
    let error = start(&mut client, &mut &long[..]);
    assert!(
        matches!(error, TransferError::TooLong { volume_bytes } if volume_bytes == volume.bytes())
    );
    let error = start(&mut client, &mut Broken(1000));
    assert!(matches!(error, TransferError::File { offset: 99_000..=100_000, .. }), "{error:?}");
    network.0.borrow_mut().servers.verdict = Some((crate::wire::ReplyStatus::NoSpace, 0));
    let error = start(&mut client, &mut &long[..]);
    let source = ClientError::NoSpace;
    assert!(matches!(error, TransferError::Volume { offset: 0, source: s } if s == source));
    let error = export(&mut client, &clock, volume, &mut Broken(3), &options, &mut |_| {});
    assert!(matches!(error, Err(TransferError::File { offset: 196_608, .. })), "{error:?}");
    let none = TransferOptions { depth: 0, ..options };
    let error = export(&mut client, &clock, volume, &mut Broken(3), &none, &mut |_| {});
    assert!(matches!(error, Err(TransferError::Options)));
    assert_eq!(client.in_flight(), 0);
    assert_eq!(client.pool().free_pages(), client.pool().total_pages());
}

#[test]
fn transfers_make_do_with_little_memory() {
    let cluster = cluster(16);
    let network = ModelNetwork::new(cluster.clone(), 4);
    let pool = pool(2 << 20);
    let client = Client::new(cluster, network, pool.clone(), ClientOptions::default());
    let mut client = client.expect("good options");
    let volume = client.open_volume("disk").expect("it exists");
    let mut kept: Vec<_> = std::iter::from_fn(|| pool.acquire(1)).collect();
    kept.drain(..20);
    let clock = Clock::default();
    let options = TransferOptions::default();
    let file = blocks(0, 100);
    import(&mut client, &clock, volume, &mut &file[..], &options, &mut |_| {}).expect("imported");
    let all: Vec<_> = std::iter::from_fn(|| pool.acquire(1)).collect();
    let error = import(&mut client, &clock, volume, &mut &file[..], &options, &mut |_| {});
    assert!(matches!(error, Err(TransferError::NoPages)));
    drop((kept, all));
}
