//! Tables of programs that run commands or scripts given to them.

/// Programs that run the rest of their words: name, options that take a further word, and
/// number of operands before the command.
pub const WRAPPERS: &[(&str, &[&str], usize)] = &[
    ("sudo", &["-u", "-g", "-h", "-p", "-C", "-r", "-t", "-U", "-D", "-R", "-T"], 0),
    ("doas", &["-u", "-C"], 0),
    ("env", &["-u", "-C", "--unset", "--chdir"], 0),
    ("nohup", &[], 0),
    ("time", &["-f", "-o"], 0),
    ("nice", &["-n"], 0),
    ("ionice", &["-c", "-n", "-p"], 0),
    ("timeout", &["-k", "-s", "--signal", "--kill-after"], 1),
    ("setsid", &[], 0),
    ("stdbuf", &["-i", "-o", "-e"], 0),
    ("exec", &["-a"], 0),
    ("command", &[], 0),
    ("builtin", &[], 0),
    ("busybox", &[], 0),
    ("toybox", &[], 0),
    ("chroot", &["--userspec", "--groups"], 1),
    ("nsenter", &["-t", "--target"], 0),
    ("unshare", &[], 0),
    ("strace", &["-e", "-o", "-p"], 0),
    ("watch", &["-n", "--interval"], 0),
    ("xargs", &["-I", "-n", "-P", "-L", "-d", "-a", "-E", "-s"], 0),
    ("parallel", &["-j", "--jobs"], 0),
    ("flock", &["-w", "-E"], 1),
    ("runuser", &["-u", "-g"], 0),
    ("su", &["-s", "-g"], 0),
    ("ssh", &["-p", "-i", "-l", "-o", "-F", "-J", "-L", "-R", "-D"], 1),
    ("systemd-run", &["-p", "--unit", "-u"], 0),
    ("script", &[], 0),
    ("coproc", &[], 0),
    ("caffeinate", &[], 0),
    ("if", &[], 0),
    ("proxychains", &[], 0),
];
/// Programs that run what follows one of these words.
pub const REMOTE: &[(&[&str], &[&str])] = &[
    (&["docker", "podman", "nerdctl", "docker-compose"], &["exec", "run"]),
    (&["kubectl", "oc", "k"], &["exec", "run", "debug"]),
    (&["aws"], &["execute-command", "send-command"]),
    (&["find"], &["-exec", "-execdir", "-ok", "-okdir"]),
    (
        &["fly", "flyctl", "heroku", "gcloud", "vagrant"],
        &["ssh", "run", "run:detached", "-C", "-c"],
    ),
];
pub const SHELLS: &[&str] = &[
    "sh",
    "bash",
    "zsh",
    "dash",
    "ksh",
    "ash",
    "fish",
    "csh",
    "tcsh",
    "pwsh",
    "powershell",
    "cmd",
];
/// Programs that read scripts from their input.
pub const READERS: &[&str] = &["at", "batch", "crontab", "parallel"];
pub const INTERPRETERS: &[&str] =
    &["python", "perl", "ruby", "node", "nodejs", "php", "lua", "deno", "bun", "awk", "gawk"];
pub const FETCHERS: &[&str] =
    &["curl", "wget", "fetch", "lynx", "aria2c", "http", "https", "nc", "ncat", "ftp", "tftp"];
pub const DECODERS: &[&str] = &[
    "base64", "base32", "xxd", "uudecode", "openssl", "gunzip", "zcat", "gzip", "bzip2", "xz",
    "rev", "tr", "gpg", "od",
];
