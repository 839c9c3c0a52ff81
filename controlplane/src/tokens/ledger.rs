//! What of tokens outlives the process: signing keys, refresh tokens, and the last good keys of issuers elsewhere.
//!
//! Rows in the store's database, and the statements that read and write them; calls block. Of a refresh token only its
//! SHA-256 is kept.

use std::collections::HashMap;
use std::sync::Arc;

use proto::limits::{
    GRANT_ACCESS_TOKENS_MAX, GRANT_REFRESHES_MAX, REFRESH_TOKENS_OF_CLIENT_MAX, REFRESH_TOKENS_OF_USER_MAX,
};
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

/// What is good of a client's refresh tokens, found by age and counted, as a further step. The counts are the triggers'.
pub const COUNTS: &str = "
CREATE INDEX refresh_tokens_of_user ON refresh_tokens (client, user, issued_s) WHERE is_used = 0;
CREATE INDEX refresh_tokens_of_client ON refresh_tokens (client, issued_s) WHERE is_used = 0;
CREATE TABLE refresh_token_counts (
    client TEXT PRIMARY KEY,
    fresh  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO refresh_token_counts SELECT client, count(*) FROM refresh_tokens WHERE is_used = 0 GROUP BY client;
CREATE TRIGGER refresh_token_given AFTER INSERT ON refresh_tokens WHEN new.is_used = 0 BEGIN
    INSERT INTO refresh_token_counts VALUES (new.client, 1) ON CONFLICT (client) DO UPDATE SET fresh = fresh + 1;
END;
CREATE TRIGGER refresh_token_used AFTER UPDATE OF is_used ON refresh_tokens WHEN old.is_used = 0 AND new.is_used <> 0 BEGIN
    UPDATE refresh_token_counts SET fresh = fresh - 1 WHERE client = old.client;
    DELETE FROM refresh_token_counts WHERE client = old.client AND fresh <= 0;
END;
CREATE TRIGGER refresh_token_gone AFTER DELETE ON refresh_tokens WHEN old.is_used = 0 BEGIN
    UPDATE refresh_token_counts SET fresh = fresh - 1 WHERE client = old.client;
    DELETE FROM refresh_token_counts WHERE client = old.client AND fresh <= 0;
END;
";

/// Rows of expired refresh tokens that go with each new one; more than one, so that they become fewer.
const EXPIRED_AT_ONCE: u32 = 100;

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub struct Ceilings {
    /// Good refresh tokens of one client for one user, or for itself.
    pub of_user: usize,
    /// Good refresh tokens of one client.
    pub of_client: usize,
    /// Good access tokens of one grant.
    pub of_grant: usize,
    /// Used refresh tokens of one grant that are remembered.
    pub used: usize,
}

impl Default for Ceilings {
    fn default() -> Self {
        Self {
            of_user: REFRESH_TOKENS_OF_USER_MAX,
            of_client: REFRESH_TOKENS_OF_CLIENT_MAX,
            of_grant: GRANT_ACCESS_TOKENS_MAX,
            used: GRANT_REFRESHES_MAX,
        }
    }
}

/// What came of an exchange of refresh tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    /// The new one is in the place of the old one.
    Done,
    /// Somebody was faster, or the old one is gone.
    Lost,
    /// The grant has as many good access tokens as it may have; the first of them runs out then, seconds since 1970.
    TooMany(u64),
}

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

/// Keeps the first refresh token of a grant, and forgets some that have run out. Where the client has as many as it may
/// have, the oldest grants end.
pub fn keep_refresh(
    store: &Store,
    hash: &SecretHash,
    token: &RefreshToken,
    ceilings: Ceilings,
    now_s: u64,
) -> Result<(), StoreError> {
    store.write(|transaction| {
        forget_expired(transaction, now_s)?;
        make_room(transaction, token, ceilings)?;
        insert(transaction, hash, token)
    })
}

/// Ends the oldest grants, so that one more is not too many.
fn make_room(connection: &Connection, token: &RefreshToken, ceilings: Ceilings) -> Result<(), StoreError> {
    let mut of_user = connection.prepare_cached(
        "SELECT family FROM refresh_tokens WHERE client = ?1 AND user IS ?2 AND is_used = 0
         ORDER BY issued_s DESC, access_expires_s DESC LIMIT -1 OFFSET ?3",
    )?;
    let kept = integer(ceilings.of_user.saturating_sub(1) as u64);
    let family = |row: &Row<'_>| row.get::<_, [u8; 16]>(0);
    let beyond: Vec<_> =
        of_user.query_map(params![token.client, token.user, kept], family)?.collect::<Result<_, _>>()?;
    end_grants(connection, token, &beyond)?;
    let fresh: Option<i64> = connection
        .prepare_cached("SELECT fresh FROM refresh_token_counts WHERE client = ?1")?
        .query_row(params![token.client], |row| row.get(0))
        .optional()?;
    let excess = fresh.unwrap_or(0) + 1 - integer(ceilings.of_client as u64);
    if excess > 0 {
        let mut of_client = connection.prepare_cached(
            "SELECT family FROM refresh_tokens WHERE client = ?1 AND is_used = 0 ORDER BY issued_s LIMIT ?2",
        )?;
        let oldest: Vec<_> = of_client.query_map(params![token.client, excess], family)?.collect::<Result<_, _>>()?;
        end_grants(connection, token, &oldest)?;
    }
    Ok(())
}

fn end_grants(connection: &Connection, newest: &RefreshToken, families: &[[u8; 16]]) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached("DELETE FROM refresh_tokens WHERE family = ?1")?;
    for family in families {
        statement.execute(params![&family[..]])?;
        let (client, user) = (&newest.client, &newest.user);
        tracing::debug!(client, user, "the client has too many refresh tokens; the oldest is forgotten");
    }
    Ok(())
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

/// Puts a new refresh token in the place of another of its family.
pub fn rotate(
    store: &Store,
    old: &SecretHash,
    new: (&SecretHash, &RefreshToken),
    ceilings: Ceilings,
    now_s: u64,
) -> Result<Rotated, StoreError> {
    store.write(|transaction| {
        let family = &new.1.family[..];
        let fresh = "SELECT EXISTS (SELECT 1 FROM refresh_tokens WHERE sha256 = ?1 AND is_used = 0)";
        if !transaction.prepare_cached(fresh)?.query_row(params![&old.0[..]], |row| row.get::<_, bool>(0))? {
            return Ok(Rotated::Lost);
        }
        let good = "SELECT count(*), coalesce(min(access_expires_s), 0) FROM refresh_tokens
             WHERE family = ?1 AND access_expires_s > ?2";
        let (count, first_s) = transaction
            .prepare_cached(good)?
            .query_row(params![family, integer(now_s)], |row| Ok((number(row, 0)?, number(row, 1)?)))?;
        if count >= ceilings.of_grant as u64 {
            return Ok(Rotated::TooMany(first_s));
        }
        let used = "UPDATE refresh_tokens SET is_used = 1 WHERE sha256 = ?1";
        transaction.prepare_cached(used)?.execute(params![&old.0[..]])?;
        forget_expired(transaction, now_s)?;
        insert(transaction, new.0, new.1)?;
        // What is not remembered opens nothing either; only that it was used before is not noticed any more.
        let beyond = "DELETE FROM refresh_tokens WHERE access_expires_s <= ?2 AND sha256 IN
             (SELECT sha256 FROM refresh_tokens WHERE family = ?1 AND is_used = 1
              ORDER BY access_expires_s DESC LIMIT -1 OFFSET ?3)";
        let kept = integer(ceilings.used as u64);
        transaction.prepare_cached(beyond)?.execute(params![family, integer(now_s), kept])?;
        Ok(Rotated::Done)
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

    const EVERY: Ceilings = Ceilings { of_user: 9, of_client: 9, of_grant: 9, used: 9 };

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
        keep_refresh(&store, &first, &token(1, "a"), EVERY, 100).unwrap();
        assert_eq!(shown(&store, &first, 199).unwrap(), Shown::Fresh(token(1, "a")));
        assert_eq!(shown(&store, &first, 200).unwrap(), Shown::Unknown, "run out");
        assert_eq!(shown(&store, &second, 100).unwrap(), Shown::Unknown);

        let exchanged = |old, new, access| rotate(&store, old, (new, &token(1, access)), EVERY, 100).unwrap();
        assert_eq!(exchanged(&first, &second, "b"), Rotated::Done);
        assert_eq!(shown(&store, &first, 100).unwrap(), Shown::Used(token(1, "a")));
        assert_eq!(exchanged(&first, &third, "c"), Rotated::Lost);
        assert_eq!(shown(&store, &third, 100).unwrap(), Shown::Unknown);

        let ids = |now| close_family(&store, &[1; 16], now).unwrap().into_iter().map(|one| one.id);
        assert_eq!(ids(149).count(), 2);
        assert_eq!(ids(150).count(), 0);
        assert_eq!(
            shown(&store, &second, 100).unwrap(),
            Shown::Used(token(1, "b")),
            "nothing more comes of the family"
        );
        assert_eq!(exchanged(&second, &third, "c"), Rotated::Lost);
        forget_family(&store, &[1; 16]).unwrap();
        assert_eq!(shown(&store, &second, 100).unwrap(), Shown::Unknown);
    }

    #[test]
    fn of_too_many_grants_the_oldest_ends() {
        let (_directory, store) = store();
        let ceilings = Ceilings { of_user: 3, of_client: 5, ..EVERY };
        let hash = |family: u8| SecretHash::of(&family.to_string());
        let keep = |family: u8, client: &str, user: Option<&str>| {
            let issued_s = 100 + u64::from(family);
            let (client, user) = (client.to_owned(), user.map(str::to_owned));
            let one = RefreshToken { client, user, issued_s, ..token(family, "a") };
            keep_refresh(&store, &hash(family), &one, ceilings, 100).unwrap();
        };
        let is_there = |family: u8| shown(&store, &hash(family), 100).unwrap() != Shown::Unknown;
        for family in 0..3 {
            keep(family, "mobile", Some("alice"));
        }
        // A use is no further grant, and what it leaves behind is not counted.
        let next = SecretHash::of("next");
        let exchange = rotate(&store, &hash(0), (&next, &RefreshToken { issued_s: 100, ..token(0, "b") }), EVERY, 100);
        assert_eq!(exchange.unwrap(), Rotated::Done);
        assert!((0..3).all(is_there));
        keep(3, "mobile", Some("alice"));
        assert!(
            !is_there(0) && shown(&store, &next, 100).unwrap() == Shown::Unknown,
            "all of the oldest grant is gone"
        );
        assert!((1..4).all(is_there));
        // Others are not in alice's way, nor she in theirs, until the client has too many.
        keep(4, "mobile", Some("bob"));
        keep(5, "mobile", None);
        keep(6, "other", Some("alice"));
        assert!((1..7).all(is_there));
        keep(7, "mobile", Some("carol"));
        assert!(!is_there(1) && (2..8).all(is_there), "the oldest of the client, of the other client none");
        forget_family(&store, &[7; 16]).unwrap();
        close_family(&store, &[5; 16], 100).unwrap();
        let counts = store.read(|one| {
            let mut statement = one.prepare("SELECT client, fresh FROM refresh_token_counts ORDER BY client")?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        });
        assert_eq!(counts.unwrap(), [("mobile".to_owned(), 3), ("other".to_owned(), 1)]);
    }

    #[test]
    fn what_an_older_program_has_left_is_counted() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(TABLES).unwrap();
        for (at, used) in [(1, false), (2, true), (3, false)] {
            insert(&connection, &SecretHash::of(&at.to_string()), &token(at, "a")).unwrap();
            let mark = "UPDATE refresh_tokens SET is_used = ?1 WHERE family = ?2";
            connection.execute(mark, params![used, &[at; 16][..]]).unwrap();
        }
        connection.execute_batch(COUNTS).unwrap();
        let fresh = |connection: &Connection| {
            let sql = "SELECT fresh FROM refresh_token_counts WHERE client = 'mobile'";
            connection.query_row(sql, [], |row| row.get::<_, i64>(0)).optional().unwrap()
        };
        assert_eq!(fresh(&connection), Some(2));
        connection.execute("DELETE FROM refresh_tokens", []).unwrap();
        assert_eq!(fresh(&connection), None, "a client that is gone leaves nothing");
    }

    #[test]
    fn a_grant_has_so_many_good_access_tokens_and_remembers_so_many_uses() {
        let (_directory, store) = store();
        let ceilings = Ceilings { of_grant: 3, used: 4, ..EVERY };
        let hash = |number: u64| SecretHash::of(&number.to_string());
        let one = |number: u64, now_s: u64| RefreshToken {
            expires_s: 100_000,
            access: AccessToken { id: number.to_string(), expires_s: now_s + 60 },
            ..token(1, "")
        };
        keep_refresh(&store, &hash(0), &one(0, 100), ceilings, 100).unwrap();
        let use_at = |number: u64, now_s| {
            rotate(&store, &hash(number), (&hash(number + 1), &one(number + 1, now_s)), ceilings, now_s)
        };
        assert_eq!(use_at(0, 110).unwrap(), Rotated::Done);
        assert_eq!(use_at(1, 120).unwrap(), Rotated::Done);
        assert_eq!(use_at(2, 130).unwrap(), Rotated::TooMany(160));
        assert!(matches!(shown(&store, &hash(2), 130).unwrap(), Shown::Fresh(_)), "it can be used later");
        assert_eq!(use_at(1, 130).unwrap(), Rotated::Lost, "who uses one twice is not told to wait");
        for number in 2..10 {
            assert_eq!(use_at(number, number * 100).unwrap(), Rotated::Done);
        }
        let known = |number| shown(&store, &hash(number), 1000).unwrap();
        assert!((0..6).all(|number| known(number) == Shown::Unknown));
        assert!((6..10).all(|number| matches!(known(number), Shown::Used(_))));
        assert!(matches!(known(10), Shown::Fresh(_)));
    }

    #[test]
    fn what_has_run_out_is_forgotten_with_time() {
        let (_directory, store) = store();
        for number in 0..5 {
            keep_refresh(&store, &SecretHash::of(&number.to_string()), &token(number, "a"), EVERY, 100).unwrap();
        }
        let later = RefreshToken { expires_s: 900, ..token(9, "b") };
        keep_refresh(&store, &SecretHash::of("x"), &later, EVERY, 200).unwrap();
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
