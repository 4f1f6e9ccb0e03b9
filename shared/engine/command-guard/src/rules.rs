//! The dangerous commands, as data.

use super::paths::{is_device, is_root, is_sensitive};

/// A dangerous command: its program and conditions on its words.
pub struct DangerRule {
    /// Names of programs. `mkfs*` matches all that begin with `mkfs`.
    pub programs: &'static [&'static str],
    /// All of these must hold.
    pub needs: &'static [Need],
    /// What the command does, for the text of the refusal.
    pub what: &'static str,
}

pub enum Need {
    /// These operands, in this order; others may be between them.
    Words(&'static [&'static str]),
    /// One of these options. Letters may be combined (`-rf`).
    Option(&'static [&'static str]),
    /// None of these options.
    NoOption(&'static [&'static str]),
    /// One of these is the first operand.
    First(&'static [&'static str]),
    /// An operand for which this is true. Its second argument is the working directory.
    Operand(fn(&str, Option<&str>) -> bool),
    LastOperand(fn(&str, Option<&str>) -> bool),
    /// An operand other than the last.
    EarlierOperand(fn(&str, Option<&str>) -> bool),
    /// Any word for which this is true.
    Word(fn(&str) -> bool),
    /// Not after a wrapper whose command is only guessed at.
    Sure,
}

use Need::{EarlierOperand, First, LastOperand, NoOption, Operand, Sure, Word, Words};

const RECURSIVE: Need = Need::Option(&["-r", "-R", "--recursive"]);
const fn rule(
    programs: &'static [&'static str],
    needs: &'static [Need],
    what: &'static str,
) -> DangerRule {
    DangerRule { programs, needs, what }
}

fn device(word: &str, _: Option<&str>) -> bool {
    is_device(word)
}

fn written(word: &str, _: Option<&str>) -> bool {
    is_device(word) || is_sensitive(word)
}

fn output_device(word: &str) -> bool {
    word.strip_prefix("of=").is_some_and(|path| is_device(path) || is_sensitive(path))
}

fn all_of_a_bucket(word: &str, _: Option<&str>) -> bool {
    let bucket = word.strip_prefix("s3://").or_else(|| word.strip_prefix("gs://"));
    bucket.is_some_and(|rest| {
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        path.chars().all(|c| c == '*' || c == '/')
    })
}

fn cluster_wide(word: &str, _: Option<&str>) -> bool {
    const KINDS: &[&str] = &[
        "ns",
        "namespace",
        "namespaces",
        "no",
        "node",
        "nodes",
        "pv",
        "persistentvolume",
        "persistentvolumes",
        "crd",
        "crds",
        "customresourcedefinition",
        "customresourcedefinitions",
    ];
    word.split(',').any(|kind| KINDS.contains(&kind.split(['/', '.']).next().unwrap_or_default()))
}

fn forced(word: &str) -> bool {
    word.len() > 1 && word.starts_with('+')
}

fn main_branch_deleted(word: &str) -> bool {
    [":main", ":master", ":refs/heads/main", ":refs/heads/master"].contains(&word)
}

fn main_branch(word: &str, _: Option<&str>) -> bool {
    ["main", "master"].contains(&word)
}

fn machines_root(word: &str) -> bool {
    word.starts_with("/:/") || word.contains("source=/,") || word.contains("src=/,")
}

fn everything(word: &str, _: Option<&str>) -> bool {
    word == "-1"
}

fn first_process(word: &str, _: Option<&str>) -> bool {
    word == "1"
}

fn drive(word: &str, cwd: Option<&str>) -> bool {
    word.contains(':') && is_root(word, cwd)
}

fn superuser(word: &str, _: Option<&str>) -> bool {
    word == "root"
}

/// The table. Options are case-sensitive: `rm -R` and `rm -r` are two.
pub const RULES: &[DangerRule] = &[
    // --- files
    rule(&["rm", "srm"], &[RECURSIVE, Operand(is_root)], "deletes a root folder"),
    rule(&["rm"], &[Need::Option(&["--no-preserve-root"])], "deletes the root folder"),
    rule(&["mv"], &[EarlierOperand(is_root)], "moves a root folder away"),
    rule(
        &["chmod", "chown", "chgrp", "setfacl", "chattr"],
        &[RECURSIVE, Operand(is_root)],
        "changes the permissions of a root folder",
    ),
    rule(
        &["tee", "truncate", "shred", "rm", "unlink"],
        &[Operand(written)],
        "changes a file or a disk that the machine depends on",
    ),
    rule(
        &["cp", "mv", "install", "ln", "rsync", "scp"],
        &[LastOperand(written)],
        "writes a file or a disk that the machine depends on",
    ),
    rule(
        &["sed", "perl", "ruby"],
        &[Operand(written), Need::Option(&["-i", "--in-place"])],
        "changes a file that the machine depends on",
    ),
    rule(
        &["rd", "rmdir", "del", "erase", "remove-item", "ri"],
        &[Operand(drive)],
        "deletes a drive",
    ),
    rule(&["format", "format.com"], &[Operand(drive)], "formats a drive"),
    // --- disks
    rule(
        &["mkfs*", "mke2fs", "mkswap", "wipefs", "blkdiscard"],
        &[Operand(device)],
        "wipes a disk",
    ),
    rule(
        &["fdisk", "sfdisk", "sgdisk", "gdisk", "cfdisk", "parted"],
        &[Operand(device), NoOption(&["-l", "--list", "-p", "--print", "-d", "--dump"])],
        "changes a disk's partitions",
    ),
    rule(&["dd", "dcfldd"], &[Word(output_device)], "overwrites a disk"),
    rule(&["shred", "wipe", "scrub"], &[Operand(is_root)], "overwrites a disk"),
    rule(&["cryptsetup"], &[First(&["luksFormat", "erase", "luksErase"])], "wipes a disk"),
    rule(&["lvremove", "vgremove", "pvremove"], &[], "removes volumes"),
    rule(&["zpool", "zfs"], &[First(&["destroy"])], "destroys a pool of disks"),
    // --- the machine
    rule(
        &["shutdown", "poweroff", "halt", "reboot"],
        &[Sure, NoOption(&["-c", "--help", "--version", "-?"])],
        "stops the machine",
    ),
    rule(&["init", "telinit"], &[Sure, First(&["0", "6"])], "stops the machine"),
    rule(
        &["systemctl"],
        &[First(&["poweroff", "reboot", "halt", "kexec", "emergency", "rescue"])],
        "stops the machine",
    ),
    rule(&["stop-computer", "restart-computer"], &[], "stops the machine"),
    rule(&["kill"], &[LastOperand(everything)], "kills every process"),
    rule(
        &["kill"],
        &[LastOperand(first_process), NoOption(&["-0", "-l"])],
        "kills the init process",
    ),
    rule(&["killall5"], &[Sure], "kills every process"),
    rule(&["iptables", "ip6tables"], &[Need::Option(&["-F", "--flush"])], "opens the firewall"),
    rule(&["nft"], &[Words(&["flush", "ruleset"])], "opens the firewall"),
    rule(&["ufw"], &[Words(&["disable"])], "opens the firewall"),
    rule(&["crontab"], &[Need::Option(&["-r"])], "removes every scheduled job"),
    rule(&["userdel", "deluser"], &[Operand(superuser)], "removes root"),
    rule(
        &["nc", "ncat", "netcat"],
        &[Need::Option(&["-e", "-c", "--exec", "--sh-exec"])],
        "opens a remote shell",
    ),
    // --- containers and clusters
    rule(
        &["kubectl", "oc", "k"],
        &[Words(&["delete"]), Operand(cluster_wide)],
        "deletes what a cluster depends on",
    ),
    rule(
        &["kubectl", "oc", "k"],
        &[Words(&["delete"]), Need::Option(&["--all", "-A", "--all-namespaces"])],
        "deletes all resources of a kind",
    ),
    rule(
        &["docker", "podman", "nerdctl"],
        &[Words(&["system", "prune"])],
        "deletes everything that no container uses",
    ),
    rule(&["docker", "podman", "nerdctl"], &[Words(&["volume", "prune"])], "deletes volumes"),
    rule(
        &["docker", "podman", "nerdctl", "docker-compose"],
        &[Words(&["down"]), Need::Option(&["-v", "--volumes"])],
        "deletes volumes",
    ),
    rule(
        &["docker", "podman", "nerdctl"],
        &[Word(machines_root)],
        "gives a container the machine's root folder",
    ),
    rule(
        &["docker"],
        &[Words(&["swarm", "leave"]), Need::Option(&["-f", "--force"])],
        "leaves a cluster by force",
    ),
    // --- infrastructure
    rule(
        &["terraform", "tofu", "terragrunt", "pulumi", "cdk"],
        &[Words(&["destroy"])],
        "destroys infrastructure",
    ),
    rule(
        &["terraform", "tofu", "terragrunt"],
        &[Words(&["apply"]), Need::Option(&["-destroy", "--destroy"])],
        "destroys infrastructure",
    ),
    rule(&["sls", "serverless"], &[First(&["remove"])], "destroys infrastructure"),
    rule(&["sam"], &[First(&["delete"])], "destroys infrastructure"),
    rule(&["eksctl"], &[Words(&["delete", "cluster"])], "deletes a cluster"),
    rule(&["aws"], &[Words(&["s3", "rb"])], "deletes a bucket"),
    rule(
        &["aws"],
        &[Words(&["s3", "rm"]), Need::Option(&["--recursive"]), Operand(all_of_a_bucket)],
        "empties a bucket",
    ),
    rule(&["aws"], &[Words(&["cloudformation", "delete-stack"])], "destroys infrastructure"),
    rule(&["aws"], &[Words(&["rds", "delete-db-instance"])], "deletes a database"),
    rule(&["aws"], &[Words(&["rds", "delete-db-cluster"])], "deletes a database"),
    rule(&["aws"], &[Words(&["dynamodb", "delete-table"])], "deletes a table"),
    rule(&["aws"], &[Words(&["eks", "delete-cluster"])], "deletes a cluster"),
    rule(
        &["aws"],
        &[Words(&["kms", "schedule-key-deletion"])],
        "makes data unreadable permanently",
    ),
    rule(&["gcloud"], &[Words(&["projects", "delete"])], "deletes a project"),
    rule(&["gcloud"], &[Words(&["sql", "instances", "delete"])], "deletes a database"),
    rule(&["gcloud"], &[Words(&["clusters", "delete"])], "deletes a cluster"),
    rule(
        &["gsutil", "gcloud"],
        &[Words(&["rm"]), RECURSIVE, Operand(all_of_a_bucket)],
        "empties a bucket",
    ),
    rule(&["az"], &[Words(&["group", "delete"])], "deletes a group of resources"),
    rule(&["heroku"], &[First(&["apps:destroy", "pg:reset"])], "destroys an application"),
    rule(&["fly", "flyctl"], &[Words(&["apps", "destroy"])], "destroys an application"),
    rule(&["vercel"], &[Words(&["project", "rm"])], "deletes a project"),
    // --- code
    rule(
        &["git"],
        &[Words(&["push"]), Need::Option(&["-f", "--force", "--mirror"])],
        "overwrites shared history",
    ),
    rule(&["git"], &[Words(&["push"]), Word(forced)], "overwrites shared history"),
    rule(&["git"], &[Words(&["push"]), Word(main_branch_deleted)], "deletes the main branch"),
    rule(
        &["git"],
        &[Words(&["push"]), Need::Option(&["-d", "--delete"]), Operand(main_branch)],
        "deletes the main branch",
    ),
    // --- data; statements of SQL are in `sql`
    rule(&["dropdb"], &[], "drops a database"),
    rule(&["mysqladmin"], &[Words(&["drop"])], "drops a database"),
    rule(&["redis-cli"], &[Words(&["flushall"])], "empties a database"),
    rule(&["redis-cli"], &[Words(&["flushdb"])], "empties a database"),
];

/// Options whose value is a separate word, by program. That word is not an operand.
pub const VALUES: &[(&[&str], &[&str])] = &[
    (
        &["kubectl", "oc", "k"],
        &[
            "-n",
            "--namespace",
            "--context",
            "--cluster",
            "--user",
            "--kubeconfig",
            "-s",
            "--server",
            "--as",
            "-l",
            "--selector",
            "-f",
            "--filename",
            "--timeout",
            "--grace-period",
            "-o",
            "--output",
            "--field-selector",
            "-c",
            "--container",
        ],
    ),
    (&["git"], &["-C", "-c", "--git-dir", "--work-tree", "-o", "--push-option"]),
    (&["aws"], &["--profile", "--region", "--endpoint-url", "--output", "--query"]),
    (&["docker", "podman", "nerdctl"], &["-H", "--host", "--context", "-c", "-f", "--file", "-p"]),
    (&["docker-compose"], &["-f", "--file", "-p", "--project-name"]),
    (&["shutdown", "reboot"], &["-t"]),
    (&["shred"], &["-n", "-s"]),
];

impl DangerRule {
    pub fn is_about(&self, program: &str) -> bool {
        self.programs.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => program.starts_with(start),
            None => *name == program,
        })
    }
}
