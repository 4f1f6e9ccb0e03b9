//! Reads version and role from a server's INFO.

use redis::{FromRedisValue as _, Value};
use watchbill_wire::legacy::LegacyError;

use super::batch::Batch;
use super::line::Line;

/// What a server reports about itself; in a cluster, one of its servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// Such as `7.2.4`.
    pub version: String,
    /// `master` or `slave`.
    pub role: String,
}

pub(super) async fn ask(line: &Line) -> Result<ServerInfo, LegacyError> {
    let mut batch = Batch::new();
    batch.plain("INFO", &[]);
    let answer = line.all(batch).await?.into_iter().next();
    Ok(answer.and_then(first_text).map(|text| read(&text)).unwrap_or_default())
}

/// The text, or the first one from the servers of a cluster.
fn first_text(answer: Value) -> Option<String> {
    match answer {
        Value::Map(servers) => first_text(servers.into_iter().next()?.1),
        Value::Array(servers) => first_text(servers.into_iter().next()?),
        text => String::from_redis_value(text).ok(),
    }
}

fn read(info: &str) -> ServerInfo {
    let field = |name: &str| {
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_default().trim().to_owned()
    };
    ServerInfo { version: field("redis_version"), role: field("role") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_role_are_found_in_the_info() {
        let info = "# Server\r\nredis_version:7.2.4\r\nredis_mode:standalone\r\n\r\n\
                    # Replication\r\nrole:master\r\nconnected_slaves:0\r\n";
        assert_eq!(read(info), ServerInfo { version: "7.2.4".into(), role: "master".into() });
        assert_eq!(read(""), ServerInfo::default());
    }
}
