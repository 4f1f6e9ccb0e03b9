//! Classifies the paths of a command by their text. Nothing is looked up in a file system.

/// Folders below the root that a machine depends on.
const SYSTEM: &[&str] = &[
    "bin",
    "boot",
    "dev",
    "etc",
    "home",
    "lib",
    "lib32",
    "lib64",
    "mnt",
    "media",
    "opt",
    "proc",
    "root",
    "run",
    "sbin",
    "srv",
    "sys",
    "usr",
    "var",
    "system",
    "library",
    "users",
    "applications",
    "windows",
];
const DEEPER: &[&str] =
    &["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/share", "usr/local", "var/lib"];
/// Names of disks and memory below /dev.
const DEVICES: &[&str] = &[
    "sd", "hd", "vd", "xvd", "nvme", "mmcblk", "disk", "mapper/", "dm-", "md", "loop", "mem",
    "kmem", "port", "ram", "zd", "nbd", "rdisk",
];
/// Files that grant rights to people and programs.
const SENSITIVE: &[&str] = &[
    "etc/passwd",
    "etc/shadow",
    "etc/group",
    "etc/gshadow",
    "etc/sudoers",
    "etc/ld.so.preload",
    "etc/fstab",
    "etc/crontab",
    "etc/ssh/sshd_config",
    "proc/sysrq-trigger",
];
const SENSITIVE_FOLDERS: &[&str] = &["etc/sudoers.d/", "etc/pam.d/", "boot/"];
/// Variables that are set wherever commands are run.
const SET: &[&str] = &[
    "PWD",
    "TMPDIR",
    "WORKSPACE",
    "GITHUB_WORKSPACE",
    "CI_PROJECT_DIR",
    "RUNNER_TEMP",
    "BUILD_DIR",
    "CODEBUILD_SRC_DIR",
    "PROJECT_DIR",
];

/// Whether a path is the root, a folder that a machine depends on, a home folder, or everything
/// in one of these. `cwd` is the working directory, as far as the script sets it.
pub fn is_root(path: &str, cwd: Option<&str>) -> bool {
    let path = path.replace('\\', "/");
    if let Some(rest) = home(&path) {
        return rest.is_empty();
    }
    if let Some(rest) = path.strip_prefix('$') {
        return is_unset(rest);
    }
    if let [letter, b':', rest @ ..] = path.as_bytes()
        && letter.is_ascii_alphabetic()
    {
        return is_system(&parts(&String::from_utf8_lossy(rest)));
    }
    match (path.starts_with('/'), cwd) {
        (true, _) => is_system(&parts(&path)),
        (false, Some(cwd)) if home(cwd).is_some() => home(&format!("~/{path}")) == Some(vec![]),
        (false, Some(cwd)) if cwd.starts_with('/') => is_system(&parts(&format!("{cwd}/{path}"))),
        (false, _) => false,
    }
}

/// A disk, a partition or the memory.
pub fn is_device(path: &str) -> bool {
    let parts = parts(path).join("/").to_ascii_lowercase();
    let below = parts.strip_prefix("dev/").filter(|_| path.starts_with('/'));
    below.is_some_and(|name| DEVICES.iter().any(|device| name.starts_with(device)))
}

/// A file with which someone could take over or stop the machine.
pub fn is_sensitive(path: &str) -> bool {
    let parts = parts(path).join("/");
    let absolute = path.starts_with('/');
    let is_listed = SENSITIVE.contains(&parts.as_str())
        || SENSITIVE_FOLDERS.iter().any(|folder| parts.starts_with(folder));
    (absolute && is_listed) || parts.ends_with(".ssh/authorized_keys")
}

/// The path below a home folder, without a trailing wildcard.
fn home(path: &str) -> Option<Vec<String>> {
    let rest = path
        .strip_prefix("~root")
        .or_else(|| path.strip_prefix('~'))
        .or_else(|| path.strip_prefix("$HOME"))?;
    (rest.is_empty() || rest.starts_with('/')).then(|| without_all(parts(rest)))
}

/// `$X/`, `$X/*` and `$X/etc` are paths below the root if X is empty.
fn is_unset(rest: &str) -> bool {
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    !name.is_empty() && !SET.contains(&name) && rest.starts_with('/') && is_system(&parts(rest))
}

fn is_system(parts: &[String]) -> bool {
    let parts = without_all(parts.to_vec());
    match &parts[..] {
        [] => true,
        [one] => {
            SYSTEM.contains(&one.to_ascii_lowercase().as_str())
                || one.starts_with('$')
                || one.contains(['*', '?', '['])
        }
        [_, _] => DEEPER.contains(&parts.join("/").as_str()),
        _ => false,
    }
}

/// The parts of a path, with `.` and `..` resolved.
fn parts(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

fn without_all(mut parts: Vec<String>) -> Vec<String> {
    let is_all =
        |part: &String| part.chars().all(|c| matches!(c, '*' | '?' | '.' | '!' | '[' | ']'));
    while parts.last().is_some_and(is_all) {
        parts.pop();
    }
    parts
}
