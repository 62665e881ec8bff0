//! The cluster file on disk.
//!
//! Fault model: the file is the user's, so everything in it is checked, and what is wrong is
//! named with its line. Saving replaces the file in one step: a crash leaves the old one or the
//! new one. Two processes that save at the same time are not kept from losing one's change.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Cluster, Document, LoadError, Place, SaveError};

const HEADING: &str = "# Culvert cluster file. Format: docs/format/cluster-file.md\n\n";

impl Cluster {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says what is wrong and in which line.
    pub fn load(path: &Path) -> Result<Cluster, LoadError> {
        let text = fs::read_to_string(path)
            .map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
        Cluster::parse(&text, path)
    }

    /// Checks the text of a file; `path` only names it in errors.
    ///
    /// # Errors
    ///
    /// As [`Cluster::load`], without its [`LoadError::Io`].
    pub fn parse(text: &str, path: &Path) -> Result<Cluster, LoadError> {
        let document: Document = toml::from_str(text).map_err(|source| LoadError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Cluster::check(document).map_err(|invalid| LoadError::Invalid {
            path: path.to_owned(),
            line: line_of(text, invalid.place),
            invalid,
        })
    }

    /// The text of the file. Comments of a file that was loaded are not in it.
    ///
    /// # Errors
    ///
    /// Where the content cannot be written as TOML.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        Ok(format!("{HEADING}{}", toml::to_string(self.document())?))
    }

    /// Writes the file in one step: a new file beside it, flushed, takes its name.
    ///
    /// # Errors
    ///
    /// [`SaveError`]; the file at `path` is as it was.
    pub fn save(&self, path: &Path) -> Result<(), SaveError> {
        let text = self.to_text()?;
        let beside = beside(path);
        let written = write_flushed(&beside, text.as_bytes())
            .map_err(|source| SaveError::Io { step: "write", path: beside.clone(), source })
            .and_then(|()| {
                fs::rename(&beside, path).map_err(|source| SaveError::Io {
                    step: "replace",
                    path: path.to_owned(),
                    source,
                })
            });
        if written.is_err() {
            // What is left of the attempt is of no use to anybody; the error above says enough.
            let _ = fs::remove_file(&beside);
            return written;
        }
        let directory = directory(path);
        let flushed = File::open(&directory).and_then(|opened| opened.sync_all());
        flushed.map_err(|source| SaveError::Io { step: "flush", path: directory, source })
    }
}

fn write_flushed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The line, counted from 1, where an entry of a text that is TOML begins.
fn line_of(text: &str, place: Place) -> usize {
    let Ok(table) = DeTable::parse(text) else {
        return 1;
    };
    let start = span_start(table.get_ref(), place).unwrap_or(0).min(text.len());
    text[..start].matches('\n').count() + 1
}

fn span_start(table: &DeTable<'_>, place: Place) -> Option<usize> {
    let entry = |list: &str, index: usize| nth(member(table, list)?, index);
    let found = match place {
        Place::Cluster => return None,
        Place::Node(index) => entry("nodes", index)?,
        Place::Reactor(node, reactor) => inner(entry("nodes", node)?, "reactors", reactor)?,
        Place::Device(index) => entry("devices", index)?,
        Place::Copyset(index) => entry("copysets", index)?,
        Place::Replica(copyset, replica) => {
            inner(entry("copysets", copyset)?, "replicas", replica)?
        }
        Place::Volume(index) => entry("volumes", index)?,
    };
    Some(found.span().start)
}

fn member<'t, 'i>(table: &'t DeTable<'i>, name: &str) -> Option<&'t Spanned<DeValue<'i>>> {
    table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
}

fn nth<'t, 'i>(list: &'t Spanned<DeValue<'i>>, index: usize) -> Option<&'t Spanned<DeValue<'i>>> {
    list.get_ref().as_array()?.get(index)
}

fn inner<'t, 'i>(
    entry: &'t Spanned<DeValue<'i>>,
    list: &str,
    index: usize,
) -> Option<&'t Spanned<DeValue<'i>>> {
    nth(member(entry.get_ref().as_table()?, list)?, index)
}
