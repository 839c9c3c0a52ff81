//! Bearer tokens of the admin port, as a file has them: one line each, `ROLE SHA256 NAME`.
//!
//! The file holds hashes, so reading it lets nobody in. It is looked at for each request and read when it has changed.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use proto::snapshot::SecretHash;

use super::caller::{Caller, Role};

/// Bytes of the file: some thousand tokens.
const FILE_BYTES_MAX: u64 = 128 * 1024;

/// Why a file of tokens is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("the admin tokens {} cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than any such file.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes; is it a file of admin tokens?", .0.display())]
    TooLarge(PathBuf),
    /// A line is none.
    #[error(
        "{}:{line}: a line is ROLE SHA256 NAME, where ROLE is operator or read_only and SHA256 is that of the token in \
         64 lower-case hexadecimal digits", path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
}

struct Token {
    hash: SecretHash,
    caller: Caller,
}

/// The tokens that are good now.
pub struct Tokens {
    path: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    stamp: Option<(SystemTime, u64)>,
    tokens: Vec<Token>,
}

impl Tokens {
    /// Reads the file for the first time.
    pub fn open(path: &Path) -> Result<Self, TokensError> {
        let stamp = stamp(path);
        let known = Mutex::new(Known { stamp, tokens: read(path)? });
        Ok(Self { path: path.to_owned(), known })
    }

    /// Whose token this is.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        let presented = SecretHash::of(token);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(&self.path);
        if known.stamp != now {
            known.stamp = now;
            match read(&self.path) {
                Ok(tokens) => {
                    tracing::info!(file = %self.path.display(), tokens = tokens.len(), "the admin tokens have been read again");
                    known.tokens = tokens;
                }
                Err(error) => {
                    // A file that was taken away, or spoiled, lets nobody in: it may have been a way to shut somebody out.
                    let error = proto::errors::with_sources(&error);
                    tracing::error!(error, "the new admin tokens are of no use; nobody is let in by a token");
                    known.tokens.clear();
                }
            }
        }
        // All of them are looked at, wholly: what is compared are hashes, and still nothing is told by the time it takes.
        known
            .tokens
            .iter()
            .fold(None, |found, one| if same(&one.hash, &presented) { Some(one.caller.clone()) } else { found })
    }
}

/// Whether two hashes are one, in a time that does not depend on where they differ.
fn same(one: &SecretHash, other: &SecretHash) -> bool {
    one.0.iter().zip(other.0).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}

fn read(path: &Path) -> Result<Vec<Token>, TokensError> {
    let failed = |source| TokensError::Io { path: path.to_owned(), source };
    if path.metadata().map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(TokensError::TooLarge(path.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(line, text)| parse(text).ok_or_else(|| TokensError::Line { path: path.to_owned(), line })).collect()
}

fn parse(line: &str) -> Option<Token> {
    let (role, rest) = line.split_once(char::is_whitespace)?;
    let (hash, name) = rest.trim_start().split_once(char::is_whitespace)?;
    let name: String = name.trim().chars().filter(|c| !c.is_control()).take(128).collect();
    let caller = Caller { role: Role::of_word(role)?, name: format!("token {name}") };
    (!name.is_empty()).then_some(Token { hash: hash.parse().ok()?, caller })
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash_and_the_file_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let (first, second) = (SecretHash::of("first"), SecretHash::of("second"));
        std::fs::write(&path, format!("# people\noperator {first} Ann Example\n\nread_only   {second}  board\n"))
            .unwrap();
        let tokens = Tokens::open(&path).unwrap();
        let ann = tokens.caller("first").unwrap();
        assert_eq!((ann.role, ann.name.as_str()), (Role::Operator, "token Ann Example"));
        assert_eq!(tokens.caller("second").unwrap().role, Role::ReadOnly);
        assert!(tokens.caller("third").is_none() && tokens.caller("").is_none());

        std::fs::write(&path, format!("operator {second} somebody else\n")).unwrap();
        assert!(tokens.caller("first").is_none(), "who is not in the file any more is not let in");
        assert_eq!(tokens.caller("second").unwrap().role, Role::Operator);
        std::fs::write(&path, "spoiled").unwrap();
        assert!(tokens.caller("second").is_none(), "a file that cannot be read lets nobody in");
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let hash = SecretHash::of("x");
        for bad in [
            "operator".to_owned(),
            format!("operator {hash}"),
            format!("root {hash} ann"),
            "operator secret ann".into(),
            format!("operator {} ann", hash.to_string().to_uppercase()),
        ] {
            std::fs::write(&path, format!("# first\n{bad}\n")).unwrap();
            let error = Tokens::open(&path).err().unwrap().to_string();
            assert!(error.contains("tokens:2: a line is ROLE SHA256 NAME") && !error.contains("secret ann"), "{error}");
        }
        assert!(matches!(Tokens::open(&directory.path().join("none")), Err(TokensError::Io { .. })));
    }
}
