//! Figures, not checks: run with `--ignored --nocapture` on an optimized build.

use std::time::{Duration, Instant};

use culvert_memory::{Pool, PoolOptions};
use culvert_nvme::{Emulated, EmulatedOptions, OpenOptions, QueuePair};
use uuid::Uuid;

use super::composer::apply_record;
use crate::device::{FormatOptions, LayoutOptions, format};
use crate::ids::{BlockRange, ChunkId, CopysetId, Epoch, LogIndex, RequestNumber, SessionId, Term};
use crate::journal::{Item, ReplicaIdentity, Space};
use crate::record::{Operation, Proposal, RECORD_BYTES_MAX, RecordView};
use crate::shard::{Opened, Opening, OpeningMode, Recovered, Shard, ShardConfig};
use crate::store::ChunkKey;

const DEPTH: u64 = 32;

struct Machine {
    pair: Emulated,
    pool: Pool,
    header: crate::device::DeviceHeader,
    config: ShardConfig,
}

impl Machine {
    fn open(&mut self) -> Recovered {
        let namespace = self.pair.namespace().clone();
        let mode = OpeningMode::Run;
        let mut opening = Opening::new(self.config, &namespace, &self.header, 0, mode, &self.pool)
            .expect("shard");
        loop {
            match opening.poll() {
                Some(Ok(Opened::Running(recovered))) => return *recovered,
                Some(_) => panic!("opening failed"),
                None => {}
            }
            while let Some(submission) = opening.poll_submission() {
                self.pair.submit(submission).expect("depth");
            }
            self.pair.ring();
            self.pair.poll(64, &mut |completion| opening.complete(completion));
        }
    }

    fn turn(&mut self, shard: &mut Shard, now: u64, events: &mut Vec<crate::shard::Event>) {
        shard.seal(now);
        while let Some(submission) = shard.poll_submission() {
            if let Err(refused) = self.pair.submit(submission) {
                shard.give_back(refused);
                break;
            }
        }
        self.pair.ring();
        self.pair.poll(256, &mut |completion| {
            shard.complete(now, completion, events);
        });
        events.clear();
    }
}

#[test]
#[ignore = "figures"]
fn append_and_recovery() {
    for block_size in [4096, 512] {
        let device = EmulatedOptions { block_size, ..EmulatedOptions::new(1 << 30) };
        let options = OpenOptions { depth: 512, ..OpenOptions::default() };
        let mut pair = Emulated::open(&device, &options).expect("memory");
        let pool =
            Pool::new(&PoolOptions { bytes: 16 << 20, lock: false, ..PoolOptions::default() })
                .expect("memory");
        pair.register(&pool.regions()[0]).expect("room");
        let layout = LayoutOptions::default();
        let options = FormatOptions { uuid: Uuid::from_u128(9), now_ns: 1, layout, force: false };
        let header = format(&mut pair, &pool, &options).expect("fresh");
        let config = ShardConfig { deallocate: false, ..ShardConfig::default() };
        let mut machine = Machine { pair, pool, header, config };
        let recovered = machine.open();
        let mut shard = recovered.shard;
        shard.finish_recovery([], &[]).expect("empty");
        let copyset = CopysetId(1);
        shard.append_item(&Item::ReplicaCreated(copyset, ReplicaIdentity::default(), &[]));
        let page = machine.pool.acquire(1).expect("page").freeze();
        let crc = [page.crc32c(0, 4096)];
        let mut events = Vec::new();
        let (mut index, mut spent) = (0_u64, Duration::ZERO);
        let mut waiting = std::collections::VecDeque::new();
        let begun = Instant::now();
        while index < 400_000 {
            assert_eq!(shard.space(), Space::Normal);
            let mut ready = Vec::new();
            for _ in 0..DEPTH {
                index += 1;
                let proposal = Proposal {
                    operation: Operation::Write,
                    chunk: ChunkId(index.wrapping_mul(0x9e37_79b9) % 48),
                    range: BlockRange {
                        first: (index.wrapping_mul(2_654_435_761) >> 7) as u32 % 4096,
                        blocks: 1,
                    },
                    sequence: 0,
                    epoch: Epoch(0),
                    session: SessionId(1),
                    request: RequestNumber(index),
                    crcs: &crc,
                    body: &[],
                };
                let mut bytes = [0; RECORD_BYTES_MAX];
                let record = proposal.emit(copyset, Term(1), LogIndex(index), &mut bytes).to_vec();
                let extents = shard.store_mut().allocate(1).unwrap_or_else(|| {
                    panic!(
                        "{index} {:?} {:?} {:?}",
                        shard.store().statistics(),
                        shard.counters(),
                        waiting.len()
                    )
                });
                ready.push((record, extents));
            }
            let before = Instant::now();
            for (record, extents) in &ready {
                shard.append(record, extents, None);
            }
            spent += before.elapsed();
            for (record, extents) in ready {
                shard.write_payload(&extents, &page);
                waiting.push_back((shard.open_batch(), record, extents));
            }
            machine.turn(&mut shard, index, &mut events);
            while waiting.front().is_some_and(|(batch, ..)| *batch <= shard.durable()) {
                let (_, record, extents) = waiting.pop_front().expect("looked at");
                let view = RecordView::trusted(&record);
                let key = ChunkKey { copyset, chunk: view.chunk() };
                apply_record(shard.store_mut(), key, view, &extents);
                shard.note_applied(copyset, view.index());
            }
            if shard.checkpoint_wants().is_some() {
                shard.checkpoint_copyset(copyset, |image| {
                    for (_, record, extents) in &waiting {
                        image.entry(RecordView::trusted(record), extents, None);
                    }
                });
            }
        }
        let counters = *shard.counters();
        let total = counters.payload_bytes + counters.journal_bytes + counters.checkpoint_bytes;
        println!("block size {block_size}:");
        println!(
            "  append {} ns, whole turn {} ns per entry (with the emulated device)",
            spent.as_nanos() / u128::from(index),
            begun.elapsed().as_nanos() / u128::from(index)
        );
        println!(
            "  {} items a batch, {} checkpoints, bytes per user byte {:.3}",
            counters.items / counters.batches,
            counters.checkpoints,
            total as f64 / counters.payload_bytes as f64
        );
        drop(shard);
        let begun = Instant::now();
        let recovered = machine.open();
        let opened = begun.elapsed();
        let begun = Instant::now();
        let Recovered { mut shard, groups, report } = recovered;
        for entry in groups[0].entries.iter() {
            let key = ChunkKey { copyset, chunk: entry.record.chunk() };
            if entry.record.index() <= groups[0].applied_note {
                apply_record(shard.store_mut(), key, entry.record, &entry.extents);
            }
        }
        println!(
            "  opened in {opened:?}: {} checkpoint pages, {} items; entries applied in {:?}",
            report.checkpoint_pages,
            report.items,
            begun.elapsed()
        );
    }
}
