//! The contract of [`QueuePair`](culvert_nvme::QueuePair), tried on every backend.
//!
//! Each file of the suite has functions over a [`Rig`](rig::Rig), which knows a queue pair and
//! some memory but not the backend. The macro below makes one test of each function and backend.

mod arguments;
mod batches;
mod clearing;
mod metadata;
mod model;
mod rig;
#[cfg(all(feature = "spdk", not(has_spdk)))]
mod spdk_stand_in;
mod transfers;
mod wakeups;

/// One module for each backend, one test in it for each function of the suite.
macro_rules! suite {
    ($($backend:ident: $uri:expr;)*) => { $(
        mod $backend {
            suite! { @tests $uri;
                transfers::reads_what_was_written,
                transfers::moves_any_number_of_pages,
                transfers::writes_part_of_a_page,
                transfers::reads_at_every_block,
                transfers::force_unit_access_completes,
                transfers::flush_completes,
                transfers::namespace_is_as_asked,
                batches::every_completion_is_visited_once,
                batches::a_full_queue_gives_the_submission_back,
                batches::one_doorbell_for_a_batch,
                batches::a_budget_bounds_a_poll,
                batches::nothing_completes_before_it_is_rung,
                batches::counters_count,
                batches::dropping_gives_every_page_back,
                batches::the_rings_wrap,
                batches::depth_one_works,
                clearing::write_zeroes_reads_as_zeroes,
                clearing::deallocated_blocks_read_as_zeroes,
                clearing::many_ranges_are_deallocated,
                clearing::bad_ranges_change_nothing,
                arguments::past_the_end_is_out_of_range,
                arguments::unregistered_memory_is_a_transfer_error,
                arguments::registration_can_be_repeated,
                arguments::too_much_is_an_invalid_field,
                arguments::errors_hand_every_buffer_back,
                arguments::errors_do_not_disturb_neighbours,
                arguments::a_full_table_of_regions_is_an_error,
                metadata::metadata_travel_with_their_block,
                metadata::what_metadata_do_not_fit_is_an_invalid_field,
                wakeups::a_sleeper_is_woken,
                wakeups::arming_sees_what_is_there,
                model::agrees_with_a_model,
            }
        }
    )* };
    (@tests $uri:expr; $($module:ident :: $test:ident,)*) => { $(
        #[test]
        fn $test() {
            if let Some(rig) = crate::rig::Rig::open($uri) {
                crate::$module::$test(rig);
            }
        }
    )* };
}

suite! {
    inline_4096: "emulated:64MiB";
    inline_512: "emulated:64MiB?block=512";
    inline_file: "emulated:64MiB?file=FILE";
    inline_cache: "emulated:64MiB?cache=volatile";
    inline_small_cache_512: "emulated:64MiB?cache=volatile&cache_blocks=9&block=512";
    inline_shuffled: "emulated:64MiB?order=shuffled&seed=1";
    inline_shuffled_cache: "emulated:64MiB?order=shuffled&seed=2&cache=volatile&cache_blocks=64";
    inline_metadata: "emulated:64MiB?metadata=64";
    inline_metadata_cache: "emulated:64MiB?metadata=64&cache=volatile&cache_blocks=5";
    thread_4096: "emulated:64MiB?thread=1";
    thread_512: "emulated:64MiB?thread=1&block=512&cache=volatile";
    thread_file_shuffled: "emulated:64MiB?thread=1&file=FILE&order=shuffled&seed=3&metadata=64";
    uring_4096: "uring:FILE?size=64MiB";
    uring_512: "uring:FILE?size=64MiB&block=512";
    uring_block_device: "uring:DEVICE?block=512";
    vfio_4096: "vfio:CONTROLLER0";
    vfio_512: "vfio:CONTROLLER1";
    vfio_metadata: "vfio:CONTROLLER2";
    vfio_small_transfers: "vfio:CONTROLLER3";
    vfio_no_interrupts: "vfio:CONTROLLER0?interrupts=0";
    passthrough_4096: "uring:NAMESPACE0";
    passthrough_512: "uring:NAMESPACE1";
    passthrough_small_transfers: "uring:NAMESPACE3";
    passthrough_polled: "uring:NAMESPACE0?polled=1";
}

// SPDK drives the first of the targets that are named, or something stands in for it.
#[cfg(feature = "spdk")]
suite! {
    spdk: "spdk:TARGET0";
}
