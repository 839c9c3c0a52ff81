//! The forms that the database has had, as the steps from each to the next.
//!
//! A step that has been released is never changed: a new one is added behind it. The number of steps is the database's
//! `user_version`.

/// Every step, in order. Each runs in one transaction.
pub(super) const ALL: &[&str] = &[CATALOGUE, crate::tokens::ledger::TABLES, crate::tokens::ledger::COUNTS];

/// The objects that were created through the admin API. `value` is the object as JSON; the columns before it are what
/// is looked for. `secret` is the SHA-256 of a key.
const CATALOGUE: &str = "
CREATE TABLE objects (
    kind        TEXT NOT NULL,
    id          TEXT NOT NULL,
    application TEXT,
    api         TEXT,
    user        TEXT,
    secret      BLOB,
    enabled     INTEGER NOT NULL,
    expires_s   INTEGER,
    created_s   INTEGER NOT NULL,
    updated_s   INTEGER NOT NULL,
    value       TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX objects_by_secret ON objects (secret) WHERE secret IS NOT NULL;
CREATE INDEX objects_by_application ON objects (application, kind, id) WHERE application IS NOT NULL;
CREATE INDEX objects_by_api ON objects (api, kind, id) WHERE api IS NOT NULL;
CREATE INDEX objects_by_user ON objects (user, kind, id) WHERE user IS NOT NULL;
CREATE INDEX objects_by_expiry ON objects (kind, expires_s) WHERE expires_s IS NOT NULL;
";
