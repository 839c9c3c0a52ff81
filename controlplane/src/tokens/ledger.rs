//! What of tokens outlives the process: signing keys, refresh tokens, and the last good keys of issuers elsewhere.
//!
//! Rows in the store's database, and the statements that read and write them; calls block. Of a refresh token only its
//! SHA-256 is kept.

use std::collections::HashMap;
use std::sync::Arc;

use proto::snapshot::SecretHash;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::jws::{self, SigningKey};
use super::keyring::{Held, Keyring};
use crate::store::{Store, StoreError};

/// The tables, as a step of the store's migrations.
pub const TABLES: &str = "
CREATE TABLE signing_keys (
    kid                TEXT PRIMARY KEY,
    algorithm          TEXT NOT NULL,
    public             TEXT NOT NULL,
    private            BLOB,
    signs_from_ms      INTEGER NOT NULL,
    published_until_ms INTEGER
) STRICT;
CREATE TABLE refresh_tokens (
    sha256           BLOB PRIMARY KEY,
    family           BLOB NOT NULL,
    client           TEXT NOT NULL,
    user             TEXT,
    scope            TEXT NOT NULL,
    issued_s         INTEGER NOT NULL,
    expires_s        INTEGER NOT NULL,
    is_used          INTEGER NOT NULL,
    access_id        TEXT NOT NULL,
    access_expires_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family);
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_s);
CREATE TABLE fetched_keys (
    url       TEXT PRIMARY KEY,
    jwks      TEXT NOT NULL,
    fetched_s INTEGER NOT NULL
) STRICT;
";

/// Rows of expired refresh tokens that go with each new one; more than one, so that they become fewer.
const EXPIRED_AT_ONCE: u32 = 100;

/// A refresh token, without itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// All that came of one grant have the same.
    pub family: [u8; 16],
    /// The client that it was given to.
    pub client: String,
    /// The user for whom, if it was for one.
    pub user: Option<String>,
    /// The scopes of the grant.
    pub scope: String,
    /// When the grant was made, seconds since 1970.
    pub issued_s: u64,
    /// When it runs out.
    pub expires_s: u64,
    /// The access token that was given with it.
    pub access: AccessToken,
}

/// An access token, as far as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// Its `jti`.
    pub id: String,
    /// When it runs out, seconds since 1970.
    pub expires_s: u64,
}

/// What is known of a refresh token that somebody has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// It is there, and has not been used.
    Fresh(RefreshToken),
    /// It is there, and has been used before.
    Used(RefreshToken),
    /// It is not there: never given, run out, or taken back.
    Unknown,
}

/// The signing keys. An operator's key has its public half only.
pub fn keyring(store: &Store) -> Result<Keyring, StoreError> {
    let rows = store.read(|connection| {
        let mut statement = connection
            .prepare("SELECT algorithm, public, private, signs_from_ms, published_until_ms, kid FROM signing_keys")?;
        let rows = statement.query_map([], |row| Ok((held(row)?, row.get::<_, String>(5)?)))?;
        Ok(rows.collect::<Result<Vec<_>, _>>()?)
    })?;
    let sound = rows.into_iter().filter_map(|(held, kid)| {
        if held.is_none() {
            tracing::error!(kid, "a signing key in the store cannot be read; it is left out");
        }
        held
    });
    Ok(Keyring::new(sound.collect()))
}

fn held(row: &Row<'_>) -> rusqlite::Result<Option<Held>> {
    let (algorithm, public, pkcs8): (String, String, Option<Vec<u8>>) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (signs_from_ms, published_until_ms) = (number(row, 3)?, row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs));
    let read = || {
        let algorithm = jws::algorithm(&algorithm)?;
        let public = serde_json::from_str(&public).ok()?;
        let private = match &pkcs8 {
            Some(pkcs8) => Some(Arc::new(SigningKey::of_pkcs8(algorithm, pkcs8).ok()?)),
            None => None,
        };
        let pkcs8 = pkcs8.clone().map(Arc::from);
        Some(Held { public, algorithm, private, pkcs8, signs_from_ms, published_until_ms })
    };
    Ok(read())
}

/// Keeps these keys and no others.
pub fn keep_keyring(store: &Store, keyring: &Keyring) -> Result<(), StoreError> {
    store.write(|transaction| {
        transaction.execute("DELETE FROM signing_keys", [])?;
        let mut statement = transaction.prepare_cached(
            "INSERT INTO signing_keys (kid, algorithm, public, private, signs_from_ms, published_until_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for key in keyring.keys() {
            let public = serde_json::to_string(&key.public).expect("texts become JSON");
            let (algorithm, pkcs8) = (jws::name(key.algorithm), key.pkcs8.as_deref());
            statement.execute(params![
                key.kid(),
                algorithm,
                public,
                pkcs8,
                integer(key.signs_from_ms),
                key.published_until_ms.map(integer)
            ])?;
        }
        Ok(())
    })
}

/// Keeps a new refresh token, and forgets some that have run out.
pub fn keep_refresh(store: &Store, hash: &SecretHash, token: &RefreshToken, now_s: u64) -> Result<(), StoreError> {
    store.write(|transaction| {
        forget_expired(transaction, now_s)?;
        insert(transaction, hash, token)
    })
}

/// What is known of the refresh token with this hash.
pub fn shown(store: &Store, hash: &SecretHash, now_s: u64) -> Result<Shown, StoreError> {
    store.read(|connection| {
        let found = connection
            .prepare_cached(
                "SELECT family, client, user, scope, issued_s, expires_s, access_id, access_expires_s, is_used
                 FROM refresh_tokens WHERE sha256 = ?1 AND expires_s > ?2",
            )?
            .query_row(params![&hash.0[..], integer(now_s)], |row| Ok((refresh_token(row)?, row.get::<_, bool>(8)?)))
            .optional()?;
        Ok(match found {
            Some((token, false)) => Shown::Fresh(token),
            Some((token, true)) => Shown::Used(token),
            None => Shown::Unknown,
        })
    })
}

/// Puts a new refresh token in the place of another of its family. No: somebody was faster, or the other one is gone.
pub fn rotate(
    store: &Store,
    old: &SecretHash,
    new: (&SecretHash, &RefreshToken),
    now_s: u64,
) -> Result<bool, StoreError> {
    store.write(|transaction| {
        let used = "UPDATE refresh_tokens SET is_used = 1 WHERE sha256 = ?1 AND is_used = 0";
        if transaction.prepare_cached(used)?.execute(params![&old.0[..]])? == 0 {
            return Ok(false);
        }
        forget_expired(transaction, now_s)?;
        insert(transaction, new.0, new.1)?;
        Ok(true)
    })
}

/// Makes every refresh token of a family a used one, so that nothing more comes of it, and returns the access tokens that
/// did and have not run out.
pub fn close_family(store: &Store, family: &[u8; 16], now_s: u64) -> Result<Vec<AccessToken>, StoreError> {
    store.write(|transaction| {
        transaction.execute("UPDATE refresh_tokens SET is_used = 1 WHERE family = ?1", params![&family[..]])?;
        let mut statement = transaction.prepare_cached(
            "SELECT access_id, access_expires_s FROM refresh_tokens WHERE family = ?1 AND access_expires_s > ?2",
        )?;
        let rows = statement.query_map(params![&family[..], integer(now_s)], |row| {
            Ok(AccessToken { id: row.get(0)?, expires_s: number(row, 1)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

/// Takes a family of refresh tokens back.
pub fn forget_family(store: &Store, family: &[u8; 16]) -> Result<(), StoreError> {
    store.write(|transaction| {
        transaction.execute("DELETE FROM refresh_tokens WHERE family = ?1", params![&family[..]])?;
        Ok(())
    })
}

fn insert(connection: &Connection, hash: &SecretHash, token: &RefreshToken) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO refresh_tokens
             (sha256, family, client, user, scope, issued_s, expires_s, is_used, access_id, access_expires_s)
         VALUES (:sha256, :family, :client, :user, :scope, :issued_s, :expires_s, 0, :access_id, :access_expires_s)",
    )?;
    statement.execute(named_params! {
        ":sha256": &hash.0[..],
        ":family": &token.family[..],
        ":client": token.client,
        ":user": token.user,
        ":scope": token.scope,
        ":issued_s": integer(token.issued_s),
        ":expires_s": integer(token.expires_s),
        ":access_id": token.access.id,
        ":access_expires_s": integer(token.access.expires_s),
    })?;
    Ok(())
}

fn forget_expired(connection: &Connection, now_s: u64) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM refresh_tokens WHERE sha256 IN
             (SELECT sha256 FROM refresh_tokens WHERE expires_s <= ?1 LIMIT ?2)",
    )?;
    statement.execute(params![integer(now_s), EXPIRED_AT_ONCE])?;
    Ok(())
}

fn refresh_token(row: &Row<'_>) -> rusqlite::Result<RefreshToken> {
    Ok(RefreshToken {
        family: row.get(0)?,
        client: row.get(1)?,
        user: row.get(2)?,
        scope: row.get(3)?,
        issued_s: number(row, 4)?,
        expires_s: number(row, 5)?,
        access: AccessToken { id: row.get(6)?, expires_s: number(row, 7)? },
    })
}

/// SQLite's integers are signed.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.unsigned_abs())
}

/// A set of keys as it was fetched: its text, and when, in seconds since 1970.
pub type Fetched = (String, u64);

/// The last good sets of keys, by URL.
pub fn fetched(store: &Store) -> Result<HashMap<String, Fetched>, StoreError> {
    store.read(|connection| {
        let mut statement = connection.prepare("SELECT url, jwks, fetched_s FROM fetched_keys")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, number(row, 2)?))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

/// Keeps the set of this URL.
pub fn keep_fetched(store: &Store, url: &str, jwks: &str, now_s: u64) -> Result<(), StoreError> {
    store.write(|transaction| {
        transaction.execute(
            "INSERT INTO fetched_keys (url, jwks, fetched_s) VALUES (?1, ?2, ?3)
             ON CONFLICT (url) DO UPDATE SET jwks = ?2, fetched_s = ?3",
            params![url, jwks, integer(now_s)],
        )?;
        Ok(())
    })
}

/// Forgets the sets of all other URLs.
pub fn forget_fetched_but(store: &Store, urls: &[String]) -> Result<(), StoreError> {
    let urls = serde_json::to_string(urls).expect("texts become JSON");
    store.write(|transaction| {
        let other = "DELETE FROM fetched_keys WHERE url NOT IN (SELECT value FROM json_each(?1))";
        transaction.execute(other, params![urls])?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use proto::snapshot::SigningAlgorithm;
    use ring::rand::SystemRandom;

    use super::super::keyring::Rotation;
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        (directory, store)
    }

    fn token(family: u8, access: &str) -> RefreshToken {
        RefreshToken {
            family: [family; 16],
            client: "mobile".into(),
            user: Some("alice".into()),
            scope: "read write".into(),
            issued_s: 100,
            expires_s: 200,
            access: AccessToken { id: access.into(), expires_s: 150 },
        }
    }

    #[test]
    fn signing_keys_come_back_as_they_were() {
        let (_directory, store) = store();
        assert!(keyring(&store).unwrap().keys().is_empty());
        let wanted = Rotation { algorithm: SigningAlgorithm::Es256, given: None, every_ms: 100_000, lifetime_ms: 1000 };
        let mut ring = Keyring::default();
        for now_ms in [0, 60_000, 100_000] {
            ring.step(&wanted, now_ms, &SystemRandom::new()).unwrap();
        }
        keep_keyring(&store, &ring).unwrap();
        let read = keyring(&store).unwrap();
        let told = |ring: &Keyring| {
            let keys = ring.keys().iter();
            keys.map(|key| (key.kid().to_owned(), key.signs_from_ms, key.published_until_ms)).collect::<Vec<_>>()
        };
        assert_eq!(told(&read), told(&ring));
        assert_eq!(read.published(), ring.published());
        assert!(read.signing(100_000).is_some());
    }

    #[test]
    fn a_refresh_token_is_used_once() {
        let (_directory, store) = store();
        let [first, second, third] = ["1", "2", "3"].map(SecretHash::of);
        keep_refresh(&store, &first, &token(1, "a"), 100).unwrap();
        assert_eq!(shown(&store, &first, 199).unwrap(), Shown::Fresh(token(1, "a")));
        assert_eq!(shown(&store, &first, 200).unwrap(), Shown::Unknown, "run out");
        assert_eq!(shown(&store, &second, 100).unwrap(), Shown::Unknown);

        assert!(rotate(&store, &first, (&second, &token(1, "b")), 100).unwrap());
        assert_eq!(shown(&store, &first, 100).unwrap(), Shown::Used(token(1, "a")));
        assert!(!rotate(&store, &first, (&third, &token(1, "c")), 100).unwrap());
        assert_eq!(shown(&store, &third, 100).unwrap(), Shown::Unknown);

        let ids = |now| close_family(&store, &[1; 16], now).unwrap().into_iter().map(|one| one.id);
        assert_eq!(ids(149).count(), 2);
        assert_eq!(ids(150).count(), 0);
        assert_eq!(
            shown(&store, &second, 100).unwrap(),
            Shown::Used(token(1, "b")),
            "nothing more comes of the family"
        );
        assert!(!rotate(&store, &second, (&third, &token(1, "c")), 100).unwrap());
        forget_family(&store, &[1; 16]).unwrap();
        assert_eq!(shown(&store, &second, 100).unwrap(), Shown::Unknown);
    }

    #[test]
    fn what_has_run_out_is_forgotten_with_time() {
        let (_directory, store) = store();
        for number in 0..5 {
            keep_refresh(&store, &SecretHash::of(&number.to_string()), &token(number, "a"), 100).unwrap();
        }
        keep_refresh(&store, &SecretHash::of("x"), &RefreshToken { expires_s: 900, ..token(9, "b") }, 200).unwrap();
        let count =
            store.read(|one| Ok(one.query_row("SELECT count(*) FROM refresh_tokens", [], |row| row.get::<_, i64>(0))?));
        assert_eq!(count.unwrap(), 1);
    }

    #[test]
    fn fetched_keys_are_kept_by_url() {
        let (_directory, store) = store();
        keep_fetched(&store, "https://a/", "A", 1).unwrap();
        keep_fetched(&store, "https://b/", "B", 2).unwrap();
        keep_fetched(&store, "https://a/", "AA", 3).unwrap();
        assert_eq!(fetched(&store).unwrap()["https://a/"], ("AA".to_owned(), 3));
        forget_fetched_but(&store, &["https://b/".into()]).unwrap();
        assert_eq!(fetched(&store).unwrap().into_keys().collect::<Vec<_>>(), ["https://b/"]);
    }
}
