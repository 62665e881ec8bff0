//! What the code under test logs on this thread.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// The log of this thread while it lives.
pub struct Said {
    lines: Lines,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// Starts to listen.
    pub fn listen() -> Said {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .without_time()
            .with_writer(lines.clone())
            .finish();
        Said { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// Everything that was said since the last call.
    pub fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.lines.0.lock().expect("nobody panics with it"));
        String::from_utf8(bytes).expect("a log is text")
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics with it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        self.clone()
    }
}
