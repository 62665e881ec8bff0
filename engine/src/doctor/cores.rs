//! A set of processors as the kernel writes it: `0-3,8-11`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Numbers from here on are nonsense: no kernel is built for so many.
const CORES_END: u32 = 1 << 16;

/// Processors by their numbers. The kernel calls each hardware thread one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cores(pub(super) BTreeSet<u32>);

impl Cores {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Cores {
    type Err = ();

    /// An empty set is nothing at all, or `(null)`, which some kernels print for `nohz_full`.
    fn from_str(text: &str) -> Result<Cores, ()> {
        let mut cores = BTreeSet::new();
        if text.is_empty() || text == "(null)" {
            return Ok(Cores(cores));
        }
        for range in text.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let first: u32 = first.trim().parse().map_err(drop)?;
            let last: u32 = last.trim().parse().map_err(drop)?;
            if first > last || last >= CORES_END {
                return Err(());
            }
            cores.extend(first..=last);
        }
        Ok(Cores(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cores = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = cores.next() {
            let mut last = first;
            while let Some(next) = cores.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for text in ["", "0", "0-3", "0-1,3,8-11", "63"] {
            assert_eq!(text.parse::<Cores>().map(|cores| cores.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("(null)".parse(), Ok(Cores::default()));
    }

    #[test]
    fn nonsense_is_refused_and_takes_no_memory() {
        for text in ["x", "3-1", "0-4294967295", "65536", "-1", "1,", "1--2", "0x3"] {
            assert_eq!(text.parse::<Cores>(), Err(()), "{text}");
        }
    }
}
