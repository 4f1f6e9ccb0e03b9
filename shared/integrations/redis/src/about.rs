//! What a server says of itself.

use redis::{FromRedisValue as _, Value};
use watchbill_wire::peer::PeerError;

use super::batch::Batch;
use super::line::Line;

/// What a server says of itself; of a cluster, one of its servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Such as `7.2.4`.
    pub version: String,
    /// `master` or `slave`.
    pub role: String,
}

pub(super) async fn ask(line: &Line) -> Result<About, PeerError> {
    let mut batch = Batch::new();
    batch.plain("INFO", &[]);
    let answer = line.all(batch).await?.into_iter().next();
    Ok(answer.and_then(first_text).map(|text| read(&text)).unwrap_or_default())
}

/// The text, or the first of those that the servers of a cluster gave.
fn first_text(answer: Value) -> Option<String> {
    match answer {
        Value::Map(servers) => first_text(servers.into_iter().next()?.1),
        Value::Array(servers) => first_text(servers.into_iter().next()?),
        text => String::from_redis_value(text).ok(),
    }
}

fn read(info: &str) -> About {
    let field = |name: &str| {
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_default().trim().to_owned()
    };
    About { version: field("redis_version"), role: field("role") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_role_stand_among_much_else() {
        let info = "# Server\r\nredis_version:7.2.4\r\nredis_mode:standalone\r\n\r\n\
                    # Replication\r\nrole:master\r\nconnected_slaves:0\r\n";
        assert_eq!(read(info), About { version: "7.2.4".into(), role: "master".into() });
        assert_eq!(read(""), About::default());
    }
}
