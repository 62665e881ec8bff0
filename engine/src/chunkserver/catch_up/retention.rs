//! How far a log may be let go while replicas catch up on it.

use super::LOG_RETAINED_FACTOR;
use crate::chunkserver::Chunkserver;
use crate::ids::LogIndex;

impl Chunkserver {
    /// Says to every log how far it may be let go.
    pub(super) fn hold_logs(&mut self) {
        for copyset in &mut self.copysets {
            copyset.floor = None;
        }
        for task in &self.sources.tasks {
            let copyset = &mut self.copysets[task.position as usize];
            let floor = task.floor(copyset);
            copyset.floor = Some(copyset.floor.map_or(floor, |other| other.min(floor)));
        }
    }
}

/// The index up to which a log of `applied` entries may be let go.
pub(in crate::chunkserver) fn let_go_index(
    applied: LogIndex,
    retained: u64,
    floor: Option<LogIndex>,
) -> LogIndex {
    let usual = applied.0.saturating_sub(retained);
    let held = floor.map_or(usual, |floor| usual.min(floor.0));
    let least = applied.0.saturating_sub(retained.saturating_mul(LOG_RETAINED_FACTOR));
    LogIndex(held.max(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_held_back_within_bounds() {
        let index = |applied, floor: Option<u64>| {
            let_go_index(LogIndex(applied), 100, floor.map(LogIndex)).0
        };
        assert_eq!(index(50, None), 0);
        assert_eq!(index(1000, None), 900);
        assert_eq!(index(1000, Some(950)), 900);
        assert_eq!(index(1000, Some(300)), 300);
        assert_eq!(index(1000, Some(10)), 200, "eight times as much at most");
    }
}
