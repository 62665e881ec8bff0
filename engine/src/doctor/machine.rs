//! Where the files of a machine are: below `/`, or below a folder that a test has filled.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::str::FromStr;

use rustix::fs::Access;

/// Bytes of a file that are looked at: more than any of sysfs has, and than the cache of the
/// dynamic linker usually has.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Characters of nonsense that are repeated to the reader.
const NONSENSE_CHARS_MAX: usize = 40;

/// A machine, seen through files that are only ever opened for reading.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

/// Why a file did not say anything. Paths are those of the machine, without its root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// It does not exist.
    #[error("there is no {path}")]
    Missing { path: String },
    /// The kernel does not let it be read, or used.
    #[error("{path}: {source}")]
    Refused { path: String, source: io::Error },
    /// It says something that cannot be.
    #[error("{path} says {text:?}")]
    Nonsense { path: String, text: String },
}

impl Machine {
    /// The machine that this runs on.
    #[must_use]
    pub fn here() -> Machine {
        Machine::at("/")
    }

    /// The machine whose `sys`, `proc`, `dev`, `etc` and `usr` are in a folder.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Machine {
        Machine { root: root.into() }
    }

    /// Where a file of the machine is.
    pub(crate) fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The whole text of a file, without white space at its ends. Control characters, with which a
    /// device's name could take over a terminal, become question marks.
    pub(crate) fn text(&self, path: &str) -> Result<String, Unread> {
        let bytes = self.bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let harmless = |c: char| if c.is_control() && !"\n\t".contains(c) { '?' } else { c };
        Ok(text.trim_matches(['\0', ' ', '\n', '\t']).chars().map(harmless).collect())
    }

    /// The whole of a file, whatever it is.
    pub(crate) fn bytes(&self, path: &str) -> Result<Vec<u8>, Unread> {
        let refused = |source| refusal(path, source);
        let place = self.place(path);
        // A pipe would be waited for.
        if !fs::metadata(&place).map_err(refused)?.is_file() {
            return Err(refused(io::Error::other("it is not a file")));
        }
        let mut bytes = Vec::new();
        let file = File::open(place).map_err(refused)?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(refused)?;
        Ok(bytes)
    }

    /// What a file says, as a number or whatever else it should be.
    pub(crate) fn parsed<T: FromStr>(&self, path: &str) -> Result<T, Unread> {
        let text = self.text(path)?;
        text.parse().map_err(|_| nonsense(path, &text))
    }

    /// What is in a folder, `node2` before `node10`.
    pub(crate) fn names(&self, path: &str) -> Result<Vec<String>, Unread> {
        let entries = fs::read_dir(self.place(path)).map_err(|source| refusal(path, source))?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        Ok(names)
    }

    /// The entries of a folder that are a word and a number, as `node3` is, by their number.
    pub(super) fn numbered(&self, path: &str, word: &str) -> Result<Vec<u32>, Unread> {
        let names = self.names(path)?;
        let number = |name: &String| name.strip_prefix(word)?.parse().ok();
        Ok(names.iter().filter_map(number).collect())
    }

    /// Whether there is such a file or folder.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.place(path).exists()
    }

    /// The name of what a link points at: in sysfs a driver, a group, a parent.
    pub(crate) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.place(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// What a link points at, whole.
    pub(crate) fn target(&self, path: &str) -> Option<String> {
        Some(fs::read_link(self.place(path)).ok()?.to_string_lossy().into_owned())
    }

    /// Whether this user may open a device's file for reading and writing. It is not opened.
    pub(super) fn may_use(&self, path: &str) -> Result<(), Unread> {
        let asked = Access::READ_OK | Access::WRITE_OK;
        rustix::fs::access(self.place(path), asked).map_err(|errno| refusal(path, errno.into()))
    }
}

fn refusal(path: &str, source: io::Error) -> Unread {
    match source.kind() {
        io::ErrorKind::NotFound => Unread::Missing { path: path.to_owned() },
        _ => Unread::Refused { path: path.to_owned(), source },
    }
}

/// A file whose text makes no sense.
pub(super) fn nonsense(path: &str, text: &str) -> Unread {
    let text = text.chars().take(NONSENSE_CHARS_MAX).collect();
    Unread::Nonsense { path: path.to_owned(), text }
}
