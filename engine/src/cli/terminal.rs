//! What commands print, and colours and progress, which are for people only: neither ends up in a
//! file or a pipe.

use std::fmt;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exit::{Failure, Outcome};

/// What takes no longer needs no progress bar.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints on standard output. Where `println!` would panic, because whoever read it went away, the
/// command ends as [`Code::Unread`](super::exit::Code::Unread), in order. Servers must not die of
/// a closed connection, so the signal of a closed pipe stays ignored in this process.
pub fn print(text: fmt::Arguments<'_>) -> Outcome {
    let mut out = stdout().lock();
    out.write_fmt(text).and_then(|()| out.flush()).map_err(Failure::of_output)
}

/// Prints a line on standard error, if anybody reads it.
pub fn warn(text: fmt::Arguments<'_>) {
    let _unread = writeln!(stderr(), "{text}");
}

/// Prints a line on standard output; ends the function where nobody reads it.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::terminal::print(format_args!("{}\n", format_args!($($text)*)))?
    };
}
pub(crate) use say;

/// Text for the terminal that standard output is, or is not.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    colours: bool,
}

impl Paint {
    /// Colours where standard output is a terminal that has them and the user does not object
    /// (`NO_COLOR`).
    #[must_use]
    pub fn of_stdout() -> Paint {
        let objected = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Paint { colours: std::io::stdout().is_terminal() && !objected && !dumb }
    }

    /// No colours.
    #[must_use]
    pub fn plain() -> Paint {
        Paint { colours: false }
    }

    fn wrap(self, text: &str, code: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// All is well.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.wrap(text, "32")
    }

    /// Something to look at.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.wrap(text, "31")
    }

    /// What matters.
    #[must_use]
    pub fn strong(self, text: &str) -> String {
        self.wrap(text, "1")
    }
}

/// A progress bar on standard error that shows itself only when the work takes a while and a
/// person is watching.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: bool,
}

impl Progress {
    /// Work of `total` bytes.
    #[must_use]
    pub fn bytes(label: &'static str, total: u64) -> Progress {
        let style =
            "{msg:>12} [{bar:30}] {bytes:>10} of {total_bytes}, {bytes_per_sec}, {eta} left";
        Progress::new(label, total, style)
    }

    /// Work of `total` steps.
    #[must_use]
    pub fn steps(label: &'static str, total: u64) -> Progress {
        Progress::new(label, total, "{msg:>12} [{bar:30}] {pos} of {len}, {eta} left")
    }

    fn new(label: &'static str, total: u64, template: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template(template).expect("a template that was tested");
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(label);
        Progress { bar, started: Instant::now(), shown: false }
    }

    /// `amount` more is done.
    pub fn advance(&mut self, amount: u64) {
        self.bar.inc(amount);
        if !self.shown && self.started.elapsed() >= PATIENCE {
            self.shown = true;
            // Hidden all the same where standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// So much is done, all in all.
    pub fn reach(&mut self, position: u64) {
        self.advance(position.saturating_sub(self.bar.position()));
    }

    /// All is done: the bar disappears. Returns how long it took.
    pub fn finish(self) -> Duration {
        self.bar.finish_and_clear();
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid_and_quick_work_shows_nothing() {
        let mut progress = Progress::bytes("import", 100);
        progress.advance(100);
        assert!(!progress.shown);
        assert!(progress.finish() < PATIENCE);
        Progress::steps("rounds", 3).finish();
    }

    #[test]
    fn without_colours_text_stays_as_it_is() {
        assert_eq!(Paint { colours: false }.good("ok"), "ok");
        assert_eq!(Paint { colours: true }.bad("no"), "\x1b[31mno\x1b[0m");
    }
}
