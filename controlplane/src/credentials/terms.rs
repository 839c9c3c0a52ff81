//! The terms of TLS of one port, and the files that they were read from: looked at for each connection, read when one has
//! changed.
//!
//! What the terms are, and who may come in by them, is the port's to say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use proto::errors::with_sources;
use rustls::ServerConfig;

use super::CredentialsError;

type Read = Box<dyn Fn() -> Result<ServerConfig, CredentialsError> + Send + Sync>;

/// Terms that follow their files.
pub struct Terms {
    port: &'static str,
    paths: Vec<PathBuf>,
    read: Read,
    stamps: Option<Vec<Stamp>>,
    config: Arc<ServerConfig>,
}

/// When a file was written, and how long it is.
type Stamp = (SystemTime, u64);

impl Terms {
    /// Reads the files, which `read` knows, for the first time. `port` is what it is called in the log.
    pub fn read(
        port: &'static str,
        paths: Vec<PathBuf>,
        read: impl Fn() -> Result<ServerConfig, CredentialsError> + Send + Sync + 'static,
    ) -> Result<Self, CredentialsError> {
        let stamps = stamps(&paths);
        let config = Arc::new(read()?);
        Ok(Self { port, paths, read: Box::new(read), stamps, config })
    }

    /// Those of the files as they are; if they are of no use, those from before.
    pub fn current(&mut self) -> Arc<ServerConfig> {
        let stamps = stamps(&self.paths);
        if stamps != self.stamps {
            self.stamps = stamps;
            match (self.read)() {
                Ok(config) => {
                    self.config = Arc::new(config);
                    tracing::info!("the certificates of {} have been read again", self.port);
                }
                Err(error) => {
                    let error = with_sources(&error);
                    tracing::error!(error, "the new certificates of {} are of no use; the old ones stay", self.port);
                }
            }
        }
        Arc::clone(&self.config)
    }
}

/// `None` while one cannot be seen.
fn stamps(paths: &[PathBuf]) -> Option<Vec<Stamp>> {
    let stamp = |path: &Path| {
        let metadata = path.metadata().ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    paths.iter().map(|path| stamp(path)).collect()
}
