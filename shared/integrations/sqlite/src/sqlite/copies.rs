//! Access to a database for code that copies it from outside its store.

use std::path::Path;

use rusqlite::Connection;
use watchbill_core::ports::{Item, StoreError};

use super::codec::{ITEM_COLUMNS, read_item};
use super::{OpenError, schema};

/// Refuses a file that is not ours, or newer than this build.
pub(crate) fn check_known(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    schema::check_ours(conn, path, schema::MIGRATIONS.len()).map(drop)
}

/// Copies the whole database, compacted, as of one moment. See `schema::backup`.
pub(crate) fn copy(conn: &Connection, to: &Path) -> Result<(), OpenError> {
    schema::backup(conn, to)
}

/// Passes every item of a database of any version to `each`, or why it can't be read.
pub(crate) fn each_item(
    conn: &Connection,
    path: &Path,
    mut each: impl FnMut(Result<Item, StoreError>),
) -> Result<(), OpenError> {
    let failed = |source| OpenError::from_sqlite("read", path, source);
    let version: usize = conn
        .pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))
        .map_err(failed)? as usize;
    // Databases from before checksums lack this column.
    let columns = match version < schema::WITH_SUMS {
        true => ITEM_COLUMNS.replace(", sum", ", NULL"),
        false => ITEM_COLUMNS.to_owned(),
    };
    let mut statement =
        conn.prepare(&format!("SELECT {columns} FROM items ORDER BY id")).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        each(read_item(row, None).map(|(_, item)| item));
    }
    Ok(())
}
