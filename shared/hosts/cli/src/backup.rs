//! `watchbill backup` copies this machine's data folder. It sends no request to a server.

use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use watchbill_domain::Timestamp;
use watchbill_sqlite::backup::{BackupReport, backup as copy};

use super::args::BackupArgs;
use super::failure::Failure;
use super::out::Output;

pub fn backup(
    args: &BackupArgs,
    data: &Path,
    now: Timestamp,
    out: &mut Output,
) -> Result<(), Failure> {
    let data = args.data.as_deref().unwrap_or(data);
    let copied = copy(data, &args.dest, now)
        .context("could not copy the data folder")
        .map_err(Failure::Local)?;
    let BackupReport { items, database_bytes, blobs, blob_bytes, faults } = &copied;
    if out.json {
        let document = json!({
            "path": args.dest,
            "items": items,
            "database_bytes": database_bytes,
            "blobs": blobs,
            "blob_bytes": blob_bytes,
            "faults": { "count": faults.count, "named": faults.named },
        });
        out.document(document.to_string().as_bytes())?;
    } else {
        out.line(&format!(
            "{}: {items} items in {database_bytes} bytes, {blobs} blobs in {blob_bytes} bytes, \
             checked",
            args.dest.display()
        ))?;
    }
    for fault in &faults.named {
        out.note(&format!("damaged: {fault}"));
    }
    if faults.count > 0 {
        let count = faults.count;
        out.note(&format!(
            "{count} faults: the copy is as damaged as the original; compare it with an older copy \
             before you remove that"
        ));
    }
    Ok(())
}
