//! Which addresses a probe may connect to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// By default only public addresses: a task's text must not reach hosts behind the firewall,
/// the machine itself or a cloud's metadata service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbePolicy {
    /// Also allows private, loopback, link-local and other special addresses.
    pub allow_private: bool,
    /// Names or addresses that are allowed wherever they resolve to.
    pub allow_hosts: Vec<String>,
}

/// A host that the policy forbids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not probed: {host} resolves to {address}, which is not a public address; set \
     PROBE_ALLOW_HOSTS={host} to allow this host, or PROBE_ALLOW_PRIVATE=1 to allow all such hosts"
)]
pub struct Forbidden {
    pub host: String,
    pub address: IpAddr,
}

impl ProbePolicy {
    /// The host's addresses that the policy allows.
    pub fn allowed(
        &self,
        host: &str,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Forbidden> {
        let anywhere = self.allow_private || self.names(host);
        let mut first = None;
        let mut good = Vec::new();
        for address in addresses {
            first.get_or_insert(address.ip());
            if anywhere || is_public(address.ip()) {
                good.push(address);
            }
        }
        match (first, good.is_empty()) {
            (Some(address), true) => Err(Forbidden { host: host.to_owned(), address }),
            _ => Ok(good),
        }
    }

    fn names(&self, host: &str) -> bool {
        let plain =
            |name: &str| name.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let host = plain(host);
        self.allow_hosts.iter().any(|allowed| plain(allowed) == host)
    }
}

/// Whether an address belongs to the public internet (IANA's special-purpose registries).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        // Carrier-grade NAT, protocol assignments, benchmarks.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    // Forms that carry an IPv4 address: mapped, compatible, NAT64, 6to4.
    let carried = match s {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some((high, low)),
        _ => None,
    };
    if let Some((high, low)) = carried {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    // Only 2000::/3 is allocated; Teredo and documentation in it are special.
    (s[0] & 0xe000) == 0x2000 && !(s[0] == 0x2001 && (s[1] == 0 || s[1] == 0xdb8)) && s[0] != 0x3fff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_refusal_names_the_setting_that_allows_the_host() {
        let inside: SocketAddr = "10.0.0.7:80".parse().unwrap();
        let outside: SocketAddr = "1.1.1.1:80".parse().unwrap();
        let policy = ProbePolicy::default();
        let refused = policy.allowed("db.internal", [inside]).unwrap_err();
        assert!(refused.to_string().contains("PROBE_ALLOW_HOSTS=db.internal"), "{refused}");
        assert_eq!(policy.allowed("mixed", [inside, outside]), Ok(vec![outside]));
        let named = ProbePolicy { allow_hosts: vec!["DB.internal.".into()], ..policy };
        assert_eq!(named.allowed("db.internal", [inside]), Ok(vec![inside]));
        assert!(named.allowed("other", [inside]).is_err());
        let all = ProbePolicy { allow_private: true, ..ProbePolicy::default() };
        assert_eq!(all.allowed("other", [inside]), Ok(vec![inside]));
    }
}
