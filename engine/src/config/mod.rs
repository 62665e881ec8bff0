//! The configuration of a node: one TOML file, every capacity in it by name.
//!
//! A key that nobody knows is an error, a missing one has the default that `culvert serve
//! --print-config` shows. Units stand at the end of a key; sizes may carry their own (`"256MiB"`).
//! [`NodeConfig::check`] judges values and the relations between them; nothing else in the engine
//! has to. What is *not* here: where replicas live, which is the cluster file's, and limits that
//! follow from a format, which are constants beside it.
//!
//! ```toml
//! node = "6f1c1f4e-9c0b-4c5e-8f5e-0d7a5c1f2b3a"
//! cluster_file = "/etc/culvert/cluster.toml"
//!
//! [[reactors]]
//! core = 0
//! pool_bytes = "512MiB"
//! listen = ["shm:///run/culvert/0.sock", "tcp://127.0.0.1:9000"]
//!
//! [[devices]]
//! uri = "uring:/dev/nvme0n1"
//! ```

mod byte_size;
mod check;
mod raft;
mod reactor;
mod store;
mod transport;

pub use byte_size::{ByteSize, ByteSizeError};
pub use check::ConfigFault;
pub use raft::RaftConfig;
pub use reactor::{IdleConfig, ReactorConfig, TurnConfig};
pub use store::{DeviceConfig, StoreConfig};
pub use transport::TransportConfig;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Bytes of a pre-shared key at least: what it is compared by is HMAC-SHA-256.
pub const KEY_BYTES_MIN: usize = 16;

/// Reactors of one node at most.
pub const REACTORS_MAX: usize = 64;

/// Devices of one node at most.
pub const DEVICES_MAX: usize = 64;

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What an operator must act on.
    Error,
    /// What an operator should know of.
    Warn,
    /// Starts, stops, role changes, recoveries.
    #[default]
    Info,
    /// What the control plane does.
    Debug,
}

impl LogLevel {
    /// The level as the log filter spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}

/// The whole configuration of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's own name. Peers and logs call it by this; the cluster file maps it to addresses.
    pub node: Uuid,
    /// The cluster file: which devices there are and where replicas live. A relative path starts
    /// at the folder of the configuration.
    pub cluster_file: PathBuf,
    /// File with the key that peers and clients prove to hold; without one everybody is let in.
    /// White space at its end does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_shared_key_file: Option<PathBuf>,
    /// How much is logged.
    #[serde(default)]
    pub log_level: LogLevel,
    /// One thread each, pinned to its core.
    pub reactors: Vec<ReactorConfig>,
    /// The devices; the shards of each are spread over the reactors in turn.
    pub devices: Vec<DeviceConfig>,
    /// How a reactor waits when there is nothing to do.
    #[serde(default)]
    pub idle: IdleConfig,
    /// Budgets of one turn of a reactor.
    #[serde(default)]
    pub turn: TurnConfig,
    /// Connections and their windows, for each reactor.
    #[serde(default)]
    pub transport: TransportConfig,
    /// Elections, heartbeats, leases.
    #[serde(default)]
    pub raft: RaftConfig,
    /// Journal, checkpoints, recovery, catch-up.
    #[serde(default)]
    pub store: StoreConfig,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or one that it names, cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not TOML, lacks a key, has one that nobody knows, or one of another type.
    #[error("{} is not a node configuration", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        source: Box<toml::de::Error>,
    },
    /// A value is out of range, or two do not go together.
    #[error("{}: {fault}", path.display())]
    Fault {
        /// Which file.
        path: PathBuf,
        /// Which value and why.
        fault: ConfigFault,
    },
    /// The key is too short to be one.
    #[error("{}: a key has at least {KEY_BYTES_MIN} bytes, this file has {bytes}", path.display())]
    ShortKey {
        /// Which file.
        path: PathBuf,
        /// Bytes in it.
        bytes: usize,
    },
}

impl NodeConfig {
    /// A node with one reactor on `core`, no devices and the default capacities.
    #[must_use]
    pub fn new(node: Uuid, cluster_file: PathBuf, core: usize) -> NodeConfig {
        NodeConfig {
            node,
            cluster_file,
            pre_shared_key_file: None,
            log_level: LogLevel::default(),
            reactors: vec![ReactorConfig::new(core)],
            devices: Vec::new(),
            idle: IdleConfig::default(),
            turn: TurnConfig::default(),
            transport: TransportConfig::default(),
            raft: RaftConfig::default(),
            store: StoreConfig::default(),
        }
    }

    /// Reads, parses and checks a file. Relative paths in it are resolved against its folder.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<NodeConfig, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
        NodeConfig::parse(&text, path)
    }

    /// Parses and checks the text of a file; `path` names it in errors, and its folder is where
    /// relative paths start.
    ///
    /// # Errors
    ///
    /// As [`NodeConfig::load`], without its [`ConfigError::Unreadable`].
    pub fn parse(text: &str, path: &Path) -> Result<NodeConfig, ConfigError> {
        let mut config: NodeConfig = toml::from_str(text)
            .map_err(|source| ConfigError::Syntax { path: path.into(), source: source.into() })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.cluster_file = folder.join(&config.cluster_file);
        config.pre_shared_key_file = config.pre_shared_key_file.map(|file| folder.join(file));
        config.check().map_err(|fault| ConfigError::Fault { path: path.into(), fault })?;
        Ok(config)
    }

    /// The configuration as a file that [`NodeConfig::load`] reads, defaults written out.
    ///
    /// # Panics
    ///
    /// Never: every field has a place in TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a place in TOML")
    }

    /// The pre-shared key, where one is configured.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] where the file cannot be read or holds too little.
    pub fn pre_shared_key(&self) -> Result<Option<Vec<u8>>, ConfigError> {
        self.pre_shared_key_file.as_deref().map(read_key).transpose()
    }
}

/// Reads a key from a file, without the white space at its end.
///
/// # Errors
///
/// [`ConfigError`] where the file cannot be read or holds less than [`KEY_BYTES_MIN`].
pub fn read_key(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let bytes = std::fs::read(path)
        .map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
    let key = bytes.trim_ascii_end();
    if key.len() < KEY_BYTES_MIN {
        return Err(ConfigError::ShortKey { path: path.into(), bytes: key.len() });
    }
    Ok(key.to_vec())
}

#[cfg(test)]
mod tests;
