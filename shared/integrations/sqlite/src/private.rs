//! Files and folders that only their owner can access, and atomic file creation.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Permissions of a file and of a folder for the owner only.
#[cfg(unix)]
const OWNER_FILE: u32 = 0o600;
#[cfg(unix)]
const OWNER_FOLDER: u32 = 0o700;

/// Creates a folder and its parents for the owner only; an existing folder is not changed.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, OWNER_FOLDER);
    builder.create(folder)
}

/// Options that make a new file readable for its owner only.
pub fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, OWNER_FILE);
    options
}

/// Whether group or others have any permission on a file or folder.
#[cfg(unix)]
pub fn is_open_to_others(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
pub fn is_open_to_others(_path: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Removes all permissions of group and others. True if they had any; a missing file has none.
/// Works by name, without opening the file: closing a handle of a database drops SQLite's locks
/// on it.
pub fn restrict(path: &Path) -> io::Result<bool> {
    match is_open_to_others(path) {
        Ok(false) => return Ok(false),
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    #[cfg(unix)]
    {
        let mode = if path.is_dir() { OWNER_FOLDER } else { OWNER_FILE };
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    Ok(true)
}

/// Writes a new file for its owner only. On return it is complete on disk under its name; after
/// an earlier crash there is no file with that name.
pub fn write_private(file: &Path, text: &str) -> io::Result<()> {
    if file.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let half = half_of(file);
    let mut open = private_options().create(true).truncate(true).open(&half)?;
    restrict(&half)?;
    open.write_all(text.as_bytes())?;
    open.sync_all()?;
    fs::rename(&half, file)?;
    sync_folder(parent(file))
}

/// The temporary name of a file before its rename.
fn half_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".half");
    name.into()
}

/// The folder that contains a path.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
