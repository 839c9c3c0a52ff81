//! Objects as rows of the database.

use std::collections::HashMap;

use proto::snapshot::Timestamp;
use rusqlite::types::Value as Column;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde_json::Value;

use super::{Entry, Filter, Kind, Object, Origin};
use crate::store::StoreError;

/// One object, by its id.
pub(crate) fn find(connection: &Connection, kind: Kind, id: &str) -> Result<Option<Object>, StoreError> {
    const SQL: &str = "SELECT id, value, created_s, updated_s FROM objects WHERE kind = ? AND id = ?";
    let mut statement = connection.prepare_cached(SQL)?;
    Ok(statement.query_row(params![kind.word(), id], |row| object(kind, row)).optional()?)
}

/// The objects that are wanted, at most so many, whose ids come behind `after`, in the order of ids.
pub(crate) fn list(
    connection: &Connection,
    kind: Kind,
    filter: &Filter,
    after: &str,
    limit: usize,
) -> Result<Vec<Object>, StoreError> {
    let mut sql = "SELECT id, value, created_s, updated_s FROM objects WHERE kind = ? AND id > ?".to_owned();
    let text = |text: &str| Column::Text(text.to_owned());
    let mut values = vec![text(kind.word()), text(after)];
    for (column, wanted) in [("application", &filter.application), ("api", &filter.api), ("user", &filter.user)] {
        if let Some(wanted) = wanted {
            sql.push_str(&format!(" AND {column} = ?"));
            values.push(text(wanted));
        }
    }
    if let Some(enabled) = filter.enabled {
        sql.push_str(" AND enabled = ?");
        values.push(Column::Integer(enabled.into()));
    }
    if let Some(part) = &filter.text {
        sql.push_str(" AND instr(id, ?) > 0");
        values.push(text(part));
    }
    sql.push_str(" ORDER BY id LIMIT ?");
    values.push(Column::Integer(limit as i64));
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params_from_iter(values), |row| object(kind, row))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every object of a kind.
pub(super) fn all(connection: &Connection, kind: Kind) -> Result<Vec<Entry>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT value FROM objects WHERE kind = ? ORDER BY id")?;
    let rows = statement.query_map([kind.word()], |row| entry(kind, row.get(0)?, 0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many objects of each kind are stored.
pub(crate) fn counts(connection: &Connection) -> Result<HashMap<Kind, u64>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT kind, count(*) FROM objects GROUP BY kind")?;
    let rows = statement.query_map([], |row| {
        let (word, count): (String, i64) = (row.get(0)?, row.get(1)?);
        Ok((word, count.unsigned_abs()))
    })?;
    let known = |row: rusqlite::Result<(String, u64)>| {
        row.map(|(word, count)| word.parse().ok().map(|kind| (kind, count))).transpose()
    };
    Ok(rows.filter_map(known).collect::<Result<_, _>>()?)
}

/// Whether any people are stored.
pub(super) fn has_people(connection: &Connection) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM objects WHERE kind NOT IN (?, ?, ?))";
    let others = [Kind::Api, Kind::Plan, Kind::Denial].map(Kind::word);
    Ok(connection.query_row(sql, others, |row| row.get(0))?)
}

/// What refers to an application, or to an API, and cannot be without it: kinds and ids, at most so many. A denial may name
/// what is not there.
pub(super) fn users_of(
    connection: &Connection,
    kind: Kind,
    id: &str,
    limit: usize,
) -> Result<Vec<(Kind, String)>, StoreError> {
    let sql = match kind {
        Kind::Application => {
            "SELECT kind, id FROM objects WHERE application = ? AND kind <> 'denial' ORDER BY kind, id LIMIT ?"
        }
        Kind::Api => "SELECT kind, id FROM objects WHERE api = ? AND kind <> 'denial' ORDER BY kind, id LIMIT ?",
        _ => return Ok(Vec::new()),
    };
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![id, limit as i64], |row| {
        let word: String = row.get(0)?;
        let kind = word.parse().map_err(|fault: &str| unreadable(0, fault.into()))?;
        Ok((kind, row.get(1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The revocations whose time is over, at most so many.
pub(crate) fn expired(connection: &Connection, now: Timestamp, limit: usize) -> Result<Vec<String>, StoreError> {
    const SQL: &str = "SELECT id FROM objects WHERE kind = ? AND expires_s <= ? ORDER BY expires_s LIMIT ?";
    let mut statement = connection.prepare_cached(SQL)?;
    let of = params![Kind::Revocation.word(), now.as_secs() as i64, limit as i64];
    let rows = statement.query_map(of, |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Puts an object in its place.
pub(super) fn put(
    connection: &Connection,
    entry: &Entry,
    created: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "
        INSERT INTO objects (kind, id, application, api, user, secret, enabled, expires_s, created_s, updated_s, value)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
        ON CONFLICT (kind, id) DO UPDATE SET application = ?3, api = ?4, user = ?5, secret = ?6, enabled = ?7,
            expires_s = ?8, updated_s = ?10, value = ?11";
    connection.prepare_cached(SQL)?.execute(params![
        entry.kind().word(),
        entry.id(),
        entry.application(),
        entry.api(),
        entry.user(),
        entry.secret().map(|hash| hash.0.as_slice()),
        entry.is_enabled(),
        entry.expires().map(|at| at.as_secs() as i64),
        created.as_secs() as i64,
        now.as_secs() as i64,
        entry.value().to_string(),
    ])?;
    Ok(())
}

/// Deletes an object.
pub(super) fn delete(connection: &Connection, kind: Kind, id: &str) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached("DELETE FROM objects WHERE kind = ? AND id = ?")?;
    statement.execute(params![kind.word(), id])?;
    Ok(())
}

fn object(kind: Kind, row: &Row<'_>) -> rusqlite::Result<Object> {
    let (text, created, updated): (String, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
    let value: Value = serde_json::from_str(&text).map_err(|error| unreadable(1, Box::new(error)))?;
    let mut object = Object::new(kind, row.get(0)?, value, Origin::Stored);
    (object.created, object.updated) = (Some(timestamp(created)), Some(timestamp(updated)));
    Ok(object)
}

fn entry(kind: Kind, text: String, column: usize) -> rusqlite::Result<Entry> {
    let value: Value = serde_json::from_str(&text).map_err(|error| unreadable(column, Box::new(error)))?;
    Entry::read(kind, value).map_err(|fault| unreadable(column, fault.into()))
}

/// A value that this program does not understand, as the database's failure.
pub(super) fn not_readable(fault: String) -> StoreError {
    unreadable(1, fault.into()).into()
}

fn unreadable(column: usize, error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error)
}

fn timestamp(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs.unsigned_abs())
}
