//! What the control plane itself remembers, in one SQLite database in the state directory.
//!
//! Opens it, brings it up to date, and runs transactions that are on the disk when they are over. What is in the tables
//! is the business of those who have them: the [`catalogue`](crate::catalogue), and the keys and tokens.

mod migrations;

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

/// The database's file.
pub const FILE: &str = "catalogue.db";
/// Who holds this file's lock owns the database. Not the database itself: closing another descriptor of that would take
/// SQLite's own locks away.
const LOCK: &str = "catalogue.lock";
/// How long a control plane that is about to end is waited for.
const OWNER_LEAVES_WITHIN: Duration = Duration::from_secs(3);
const LOOKS_EVERY: Duration = Duration::from_millis(20);
/// How long a statement waits for another connection.
const BUSY: Duration = Duration::from_secs(5);
/// Connections for reading that are kept.
const READERS_MAX: usize = 4;
/// Marks the file as ours: "FGcy".
const APPLICATION_ID: i32 = 0x4647_6379;

/// Why the database cannot be had, or why it did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory, or a file of it.
    #[error(
        "{} cannot be opened; the control plane keeps its catalogue there and needs a state directory that it may write \
         to, see --state-dir", path.display()
    )]
    Place {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Two at a time would each publish half.
    #[error("another control plane uses {}; end it, or give this one another --state-dir", path.display())]
    Taken {
        /// The lock.
        path: PathBuf,
    },
    /// Written by a newer program.
    #[error(
        "{} is of form {found}, and this program knows forms up to {known}; use the newer program that wrote it, or \
         restore a copy from before", path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// What it says.
        found: usize,
        /// What is known here.
        known: usize,
    },
    /// Somebody else's.
    #[error("{} is a database of another program; move it away", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// It would not keep its word.
    #[error("{} cannot be written ahead of (journal mode {mode}); is the state directory on a network?", path.display())]
    NoJournal {
        /// The database.
        path: PathBuf,
        /// What SQLite does instead.
        mode: String,
    },
    /// What SQLite says.
    #[error("the catalogue's database failed")]
    Sqlite(#[from] rusqlite::Error),
}

impl StoreError {
    /// Whether a row is there already under a key that must be the only one.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation))
    }
}

/// The database. Calls block: an asynchronous caller uses `spawn_blocking`.
pub struct Store {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    _lock: File,
}

impl Store {
    /// Opens the database of this state directory, making what is not there and bringing up to date what is.
    pub fn open(state_directory: &Path) -> Result<Self, StoreError> {
        let place = |path: &Path, source| StoreError::Place { path: path.to_owned(), source };
        std::fs::create_dir_all(state_directory).map_err(|error| place(state_directory, error))?;
        let lock = own(&state_directory.join(LOCK))?;
        let path = state_directory.join(FILE);
        make_private(&path).map_err(|error| place(&path, error))?;
        let mut writer = connect(&path)?;
        migrate(&mut writer, &path, migrations::ALL)?;
        Ok(Self { path, writer: Mutex::new(writer), readers: Mutex::default(), _lock: lock })
    }

    /// The database's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A transaction that alone writes. When this returns `Ok`, what it did is on the disk; with `Err`, it did nothing.
    pub fn write<T, E: From<StoreError>>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, E>) -> Result<T, E> {
        let mut writer = held(&self.writer);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from)?;
        let done = work(&transaction)?;
        transaction.commit().map_err(StoreError::from)?;
        Ok(done)
    }

    /// A look at one state of everything that has been committed. Does not wait for writers.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = held(&self.readers).pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => connect(&self.path)?,
        };
        let transaction = reader.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let seen = work(&transaction)?;
        drop(transaction);
        let mut readers = held(&self.readers);
        if readers.len() < READERS_MAX {
            readers.push(reader);
        }
        Ok(seen)
    }
}

/// A transaction that a panic interrupted was rolled back as it was dropped.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every connection is opened here: what is said per connection must hold for all of them.
fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::NoJournal { path: path.to_owned(), mode });
    }
    // With NORMAL the last commits may be lost when power fails.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Runs what has not been run yet, one transaction each.
fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), StoreError> {
    let number = |connection: &Connection, pragma: &str| -> Result<i64, StoreError> {
        Ok(connection.pragma_query_value(None, pragma, |row| row.get(0))?)
    };
    let owner = number(connection, "application_id")?;
    let is_empty: bool = connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))?;
    if owner != i64::from(APPLICATION_ID) && !(owner == 0 && is_empty) {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let found = usize::try_from(number(connection, "user_version")?).unwrap_or_default();
    if found > migrations.len() {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: migrations.len() });
    }
    for (at, migration) in migrations.iter().enumerate().skip(found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", (at + 1) as i64)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Takes the lock for as long as the file is open.
fn own(path: &Path) -> Result<File, StoreError> {
    let place = |source| StoreError::Place { path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(place)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(place(error)),
            Err(TryLockError::WouldBlock) if begun.elapsed() < OWNER_LEAVES_WITHIN => {
                std::thread::sleep(LOOKS_EVERY);
            }
            Err(TryLockError::WouldBlock) => return Err(StoreError::Taken { path: path.to_owned() }),
        }
    }
}

/// The database holds hashes and private keys. SQLite gives the files beside it the same mode.
fn make_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_there_after_opening_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let wrote = store.write(|transaction| {
            transaction.execute("CREATE TABLE t (x INTEGER) STRICT", [])?;
            Ok::<_, rusqlite::Error>(transaction.execute("INSERT INTO t VALUES (7)", [])?).map_err(StoreError::from)
        });
        assert_eq!(wrote.unwrap(), 1);
        let lost = store.write(|transaction| -> Result<(), StoreError> {
            transaction.execute("INSERT INTO t VALUES (8)", [])?;
            Err(StoreError::Foreign { path: PathBuf::new() })
        });
        assert!(lost.is_err());
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        let sum: i64 = store.read(|one| Ok(one.query_row("SELECT sum(x) FROM t", [], |row| row.get(0))?)).unwrap();
        assert_eq!(sum, 7);
        let mode = std::fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for beside in ["catalogue.db-wal", "catalogue.db-shm", LOCK] {
            let mode = std::fs::metadata(directory.path().join(beside)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{beside}");
        }
    }

    #[test]
    fn every_connection_keeps_its_word() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let check = |connection: &Connection| -> Result<(), StoreError> {
            for (pragma, wanted) in [("synchronous", 2), ("foreign_keys", 1), ("trusted_schema", 0)] {
                let found: i64 = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
                assert_eq!(found, wanted, "{pragma}");
            }
            let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
            assert_eq!(mode, "wal");
            Ok(())
        };
        store.read(check).unwrap();
        store.write(|transaction| check(transaction)).unwrap();
    }

    #[test]
    fn one_control_plane_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Taken { .. })));
        let leaving = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(store);
        });
        assert!(Store::open(directory.path()).is_ok(), "who is about to leave is waited for");
        leaving.join().unwrap();
    }

    #[test]
    fn migrations_run_once_each_and_a_newer_database_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.db");
        make_private(&path).unwrap();
        let mut connection = connect(&path).unwrap();
        let (first, second) = ("CREATE TABLE a (x) ", "CREATE TABLE b (x)");
        migrate(&mut connection, &path, &[first]).unwrap();
        migrate(&mut connection, &path, &[first, second]).unwrap();
        migrate(&mut connection, &path, &[first, second]).unwrap();
        let newer = migrate(&mut connection, &path, &[first]).unwrap_err();
        assert!(matches!(newer, StoreError::Newer { found: 2, known: 1, .. }), "{newer}");
        // A step that fails leaves nothing of itself.
        migrate(&mut connection, &path, &[first, second, "CREATE TABLE c (x); CREATE TABLE a (x)"]).unwrap_err();
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 2);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), "not a database, but longer than a header of one would be")
            .unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Sqlite(_))));
        std::fs::remove_file(directory.path().join(FILE)).unwrap();
        Connection::open(directory.path().join(FILE)).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Foreign { .. })));
        let nowhere = Store::open(Path::new("/proc/nowhere")).err().unwrap();
        assert!(nowhere.to_string().contains("--state-dir"), "{nowhere}");
    }
}
