//! What is said of bad blocks: one line for each, and where there are many, one for the rest.

/// Lines of one stretch of time.
const LINES_MAX: u32 = 32;

/// The stretch.
const STRETCH_NS: u64 = 10_000_000_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Telling {
    since_ns: u64,
    lines: u32,
    silent: u64,
}

impl Telling {
    /// Whether a line may be written now.
    pub fn may(&mut self, now_ns: u64) -> bool {
        if now_ns.saturating_sub(self.since_ns) >= STRETCH_NS {
            if self.silent > 0 {
                tracing::error!(lines = self.silent, "more was to be said of bad blocks");
            }
            *self = Telling { since_ns: now_ns, lines: 0, silent: 0 };
        }
        let may = self.lines < LINES_MAX;
        self.lines += u32::from(may);
        self.silent += u64::from(!may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_lines_are_held_back_until_the_stretch_is_over() {
        let mut telling = Telling::default();
        let lines = |telling: &mut Telling, now_ns| {
            (0..3 * LINES_MAX).filter(|_| telling.may(now_ns)).count() as u32
        };
        assert_eq!(lines(&mut telling, STRETCH_NS), LINES_MAX);
        assert_eq!(lines(&mut telling, 2 * STRETCH_NS - 1), 0);
        assert_eq!(lines(&mut telling, 2 * STRETCH_NS), LINES_MAX);
    }
}
