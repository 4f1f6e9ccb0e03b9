//! `watchbill backup`: a copy of this machine's data folder. No server is asked.

use std::path::Path;

use serde_json::json;
use watchbill_domain::Timestamp;
use watchbill_sqlite::backup::{Copied, backup as copy};

use super::args::BackupArgs;
use super::failure::Failure;
use super::out::Out;

pub fn backup(
    args: &BackupArgs,
    data: &Path,
    now: Timestamp,
    out: &mut Out,
) -> Result<(), Failure> {
    let data = args.data.as_deref().unwrap_or(data);
    let copied =
        copy(data, &args.dest, now).map_err(|error| Failure::Local(format!("no copy: {error}")))?;
    let Copied { items, database_bytes, blobs, blob_bytes, faults } = &copied;
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
            "{count} faults: the copy is as whole as what it was made of; compare it with an older \
             one before you remove that"
        ));
    }
    Ok(())
}
