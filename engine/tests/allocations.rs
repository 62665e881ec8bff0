//! A server in steady state allocates nothing outside the raft library.
//!
//! Three nodes and a client share this thread; what a node's turn allocates is observed, the
//! client's turns are not. Each allocation is told by its call stack, which the observer keeps as
//! addresses and which are resolved at the end. The library's are those with one of its functions
//! on the stack, whoever is called by it, and those of `raft_group::handover`, where memory is made
//! that the library's interface takes ownership of. Stacks need no hook in what is tested, cannot
//! be forgotten where a new call into the library is written, and fail on the safe side: what they
//! cannot name is ours.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use culvert::client::{Client, ClientOptions, Operation, VolumeHandle};
use culvert::cluster::PlanOptions;
use culvert::config::ByteSize;
use culvert::node::{LocalCluster, LocalOptions, SystemClock};
use culvert::reactor::Clock;
use culvert_memory::{ObservedAllocator, Pages, observe_allocations};
use culvert_transport::Transport;
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: ObservedAllocator = ObservedAllocator::new();

/// Frames of a stack that are kept, from the allocation outwards.
const FRAMES_MAX: usize = 64;

/// Rounds of a case at most, of which one must be without an allocation of ours.
const ROUNDS_MAX: usize = 16;

/// Nodes of the cluster.
const NODES: usize = 3;

type Stack = ArrayVec<usize, FRAMES_MAX>;

thread_local! {
    static STACKS: RefCell<HashMap<Stack, u64>> = RefCell::default();
}

fn observe(_bytes: usize) {
    let mut stack = Stack::new();
    backtrace::trace(|frame| {
        stack.push(frame.ip() as usize);
        !stack.is_full()
    });
    STACKS.with_borrow_mut(|stacks| *stacks.entry(stack).or_default() += 1);
}

/// The functions on a stack, innermost first, those that were inlined included.
fn functions(stack: &Stack) -> Vec<String> {
    let mut names = Vec::new();
    for address in stack {
        // The address is where the call returns to: the call itself is before it.
        backtrace::resolve(address.wrapping_sub(1) as *mut c_void, |symbol| {
            names.extend(symbol.name().map(|name| format!("{name:#}")));
        });
    }
    names
}

fn is_library(function: &str) -> bool {
    let function = function.trim_start_matches('<');
    function.starts_with("raft::") || function.starts_with("culvert::raft_group::handover::")
}

/// What one node allocated in a case.
#[derive(Default)]
struct Allocated {
    library: u64,
    /// By the innermost of our functions.
    own: BTreeMap<String, u64>,
}

/// Resolves stacks once each, however many cases they turn up in.
#[derive(Default)]
struct Sorter {
    known: HashMap<Stack, Option<String>>,
}

impl Sorter {
    fn sort(&mut self, stacks: HashMap<Stack, u64>) -> Allocated {
        let mut allocated = Allocated::default();
        for (stack, count) in stacks {
            match self.known.entry(stack.clone()).or_insert_with(|| owner(&stack)) {
                None => allocated.library += count,
                Some(own) => *allocated.own.entry(own.clone()).or_default() += count,
            }
        }
        allocated
    }
}

/// The innermost functions of ours on a stack; `None` where the allocation is the library's.
fn owner(stack: &Stack) -> Option<String> {
    let functions = functions(stack);
    if functions.iter().any(|function| is_library(function)) {
        return None;
    }
    let ours = |function: &&String| {
        function.trim_start_matches('<').starts_with("culvert")
            && !function.contains("culvert_memory::observed")
    };
    let named: Vec<&str> = functions.iter().filter(ours).take(4).map(String::as_str).collect();
    Some(if named.is_empty() { functions.join(" < ") } else { named.join(" < ") })
}

/// What a node has counted.
struct Counted {
    writes: u64,
    /// Commands that wrote payload.
    commands: u64,
    /// Batches of the journal that stand in metadata.
    in_metadata: u64,
    /// Entries whose payload was read back for a follower.
    fed: u64,
}

struct Rig {
    local: LocalCluster,
    client: Client<Transport>,
    volume: VolumeHandle,
    sorter: Sorter,
    _folder: TempDir,
}

/// One kind of request.
#[derive(Clone, Copy, Debug)]
struct Case {
    writes: bool,
    blocks: u32,
    depth: u64,
    operations: u64,
    /// All but every eighth is of one block, so that space is scattered over single blocks.
    scattered: bool,
    /// A follower is stopped for half of the operations, and is then fed from the leader's device.
    away: bool,
}

impl Rig {
    fn new(tcp: bool) -> Rig {
        let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
        let device = |n: usize| {
            let file = folder.path().join(format!("device-{n}"));
            // Entries of single writes travel in metadata, or with others in the journal.
            let (size, metadata) = if tcp { (160, 0) } else { (170, 64) };
            format!("emulated:{size}MiB?file={}&metadata={metadata}", file.display())
        };
        let options = LocalOptions {
            folder: folder.path().into(),
            devices: (0..NODES).map(device).collect(),
            plan: PlanOptions {
                chunk_size: 4 << 20,
                copysets: 1,
                replicas: 3,
                quota_blocks: 30_000,
            },
            volume: ("disk".into(), 112 << 20),
            tcp,
            pool_bytes: 64 << 20,
            // Logs and checkpoints reach the lengths that they keep soon.
            adjust: |config| {
                config.store.retained_entries = 1024;
                config.store.checkpoint_min_bytes = ByteSize::mib(4);
            },
        };
        let local = LocalCluster::start(&options).expect("a local cluster");
        let transports =
            if tcp { culvert::client::Transports::Tcp } else { culvert::client::Transports::Shm };
        let mut client =
            local.client(64 << 20, ClientOptions { transports, ..ClientOptions::default() });
        let volume = client.open_volume("disk").expect("the volume");
        Rig { local, client, volume, sorter: Sorter::default(), _folder: folder }
    }

    /// Runs a case; what each node allocated meanwhile.
    fn run(&mut self, case: Case) -> [HashMap<Stack, u64>; NODES] {
        let payload = self.payload(case.blocks);
        let mut allocated: [HashMap<Stack, u64>; NODES] = Default::default();
        let (mut submitted, mut done) = (0, 0);
        let absent = case.away.then(|| (self.leader() + 1) % NODES);
        let deadline = Instant::now() + Duration::from_secs(120);
        while done < case.operations {
            assert!(Instant::now() < deadline, "{done} of {} in two minutes", case.operations);
            while submitted < case.operations && submitted - done < case.depth {
                self.submit(case, submitted, &payload);
                submitted += 1;
            }
            for (n, allocated) in allocated.iter_mut().enumerate() {
                if absent == Some(n) && done < case.operations / 2 {
                    continue;
                }
                let node = self.local.node(n).expect("it runs");
                observe_allocations(observe, || node.turn());
                STACKS.with_borrow_mut(|stacks| {
                    stacks
                        .drain()
                        .for_each(|(stack, count)| *allocated.entry(stack).or_default() += count);
                });
            }
            self.client.poll(SystemClock.now_ns(), &mut |completion| {
                assert_eq!(completion.result, Ok(()));
                done += 1;
            });
        }
        allocated
    }

    /// As [`Rig::run`], by whom.
    fn measure(&mut self, case: Case) -> [Allocated; NODES] {
        self.run(case).map(|stacks| self.sorter.sort(stacks))
    }

    fn payload(&mut self, blocks: u32) -> Pages {
        let mut buffer = self.client.pool().acquire(blocks).expect("pages");
        buffer.as_mut_slice().fill(7);
        buffer.freeze()
    }

    /// Places are scattered, and so are, in time, the extents that they get.
    fn submit(&mut self, case: Case, number: u64, payload: &Pages) {
        let volume = self.volume;
        let blocks = if case.scattered && !number.is_multiple_of(8) { 1 } else { case.blocks };
        let places = volume.blocks() / u64::from(blocks);
        let place = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let offset_blocks = place % places * u64::from(blocks);
        let operation = if case.writes {
            Operation::Write { volume, offset_blocks, pages: payload.slice(0, blocks) }
        } else {
            Operation::Read { volume, offset_blocks, blocks }
        };
        self.client.submit(operation, number).expect("room");
    }

    fn counted(&mut self, n: usize) -> Counted {
        let status = self.local.node(n).expect("it runs").reactor().chunkserver().status();
        Counted {
            writes: status.counters.writes,
            commands: status.shards[0].counters.payload_commands,
            in_metadata: status.shards[0].counters.metadata_batches,
            fed: status.counters.entries_fed_from_device,
        }
    }

    fn leader(&mut self) -> usize {
        let leads = |n: &usize| {
            let status = self.local.node(*n).expect("it runs").reactor().chunkserver().status();
            status.copysets[0].role == "leader"
        };
        (0..NODES).find(leads).expect("somebody leads")
    }
}

fn allocates_nothing(tcp: bool) {
    let mut rig = Rig::new(tcp);
    let case = |writes, blocks, depth, operations| {
        let (scattered, away) = (false, false);
        Case { writes, blocks, depth, operations, scattered, away }
    };
    let cases = [
        case(true, 1, 1, 1000),
        case(false, 1, 1, 1000),
        case(true, 1, 128, 10_000),
        case(false, 1, 128, 10_000),
        case(true, 16, 1, 500),
        case(false, 16, 1, 500),
        case(true, 16, 32, 2000),
        case(false, 16, 32, 2000),
        case(true, 256, 1, 100),
        case(false, 256, 1, 100),
        case(true, 256, 4, 400),
        case(false, 256, 4, 400),
        Case { scattered: true, ..case(true, 32, 16, 8000) },
        Case { scattered: true, ..case(false, 32, 16, 8000) },
        Case { away: true, ..case(true, 32, 16, 400) },
    ];
    // Every place is written, and windows grow.
    for filling in [case(true, 256, 4, 400), case(true, 1, 128, 50_000)] {
        rig.run(filling);
    }
    println!("allocations per operation of each node: the library's, and ours");
    let mut findings = Vec::new();
    for case in cases {
        let leader = rig.leader();
        let before = rig.counted(leader);
        // Lists reach their lengths, which takes a few rounds; what an operation costs, every one
        // of them has.
        let mut allocated = rig.measure(case);
        for _ in 1..ROUNDS_MAX {
            if allocated.iter().all(|allocated| allocated.own.is_empty()) {
                break;
            }
            allocated = rig.measure(case);
        }
        assert_eq!(leader, rig.leader(), "the leader stayed");
        let after = rig.counted(leader);
        if case.scattered && case.writes {
            let (writes, commands) =
                (after.writes - before.writes, after.commands - before.commands);
            let extents = (commands - writes * 7 / 8) as f64 / (writes / 8) as f64;
            assert!(extents > 4.0, "{extents} extents hold 32 blocks: that is not scattered");
        }
        if case.writes && case.blocks == 1 && case.depth == 1 {
            let in_metadata = after.in_metadata - before.in_metadata;
            assert_eq!(!tcp, in_metadata > 0, "{in_metadata} batches in metadata");
        }
        assert_eq!(case.away, after.fed > before.fed, "{case:?}: fed from the device");
        let what = format!(
            "{}{}{} of {:>4} KiB at depth {:>3}",
            if case.away { "one away, " } else { "" },
            if case.scattered { "scattered " } else { "" },
            if case.writes { "writes" } else { "reads " },
            case.blocks * 4,
            case.depth
        );
        let mut line = what.clone();
        for (n, allocated) in allocated.iter().enumerate() {
            let per_operation = |count: u64| count as f64 / case.operations as f64;
            let own: u64 = allocated.own.values().sum();
            let role = if n == leader { "leader" } else { "follower" };
            line += &format!(
                ", {role} {:.3} {:.4}",
                per_operation(allocated.library),
                per_operation(own)
            );
            for (function, count) in &allocated.own {
                findings.push(format!("{what}, {role}: {count} times {function}"));
            }
        }
        println!("{line}");
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn a_server_allocates_nothing_of_its_own_over_shared_memory() {
    allocates_nothing(false);
}

#[test]
fn a_server_allocates_nothing_of_its_own_over_tcp() {
    allocates_nothing(true);
}
