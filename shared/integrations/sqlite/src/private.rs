//! Files and folders for their owner alone, and files that are there whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Rights of a file and of a folder that only the owner may use.
#[cfg(unix)]
const OWNER_FILE: u32 = 0o600;
#[cfg(unix)]
const OWNER_FOLDER: u32 = 0o700;

/// Makes a folder, with those above it, for its owner alone; one that is there stays as it is.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, OWNER_FOLDER);
    builder.create(folder)
}

/// Options for a file that is readable by its owner alone if it is made by them.
pub fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, OWNER_FILE);
    options
}

/// Whether group or others have any right to a file or folder.
#[cfg(unix)]
pub fn is_open_to_others(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
pub fn is_open_to_others(_path: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Takes the rights of group and others away. True: they had some. What is not there has none.
/// By name, without opening it: closing a handle of a database drops SQLite's locks on it.
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

/// Writes a file that must not be there yet, for its owner alone. It is on disk under its name,
/// whole, when this returns; a crash before leaves none under that name.
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

/// What is written before it gets its name.
fn half_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".half");
    name.into()
}

/// The folder that a path stands in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A name is as durable as the folder it stands in.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
