//! Determines the client address of a call: its peer, or what a trusted proxy reports.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::extract::ConnectInfo;
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Addresses read from the end of a header: no chain of proxies is longer, and everything before
/// them was written by the client.
const MAX_HOPS: usize = 32;

/// The proxies whose `X-Forwarded-For` and `Forwarded` headers are trusted. None unless
/// configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "trusted proxy '{0}' is neither an address such as 10.0.0.7 nor a network such as 10.0.0.0/8"
)]
pub struct TrustedProxyError(String);

impl TrustedProxies {
    pub fn parse<'a>(
        networks: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TrustedProxyError> {
        let parse = |text: &str| {
            let text = text.trim();
            let host = || text.parse::<IpAddr>().map(IpNet::from);
            let network = text.parse::<IpNet>().or_else(|_| host());
            network.map_err(|_| TrustedProxyError(text.to_owned()))
        };
        networks.into_iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a call: the right-most address that is not a trusted proxy. A malformed
    /// header, or two headers that disagree, are ignored; the result is then the peer.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.contains(peer) {
            return peer;
        }
        // A proxy that writes one of the two passes the other on as the client sent it.
        let claims = [
            self.last_untrusted(headers, &X_FORWARDED_FOR, address),
            self.last_untrusted(headers, &header::FORWARDED, forwarded_for),
        ];
        match claims {
            [Claim::Client(one), Claim::None] | [Claim::None, Claim::Client(one)] => one,
            [Claim::Client(one), Claim::Client(other)] if one == other => one,
            _ => peer,
        }
    }

    fn last_untrusted(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
        read: fn(&str) -> Option<IpAddr>,
    ) -> Claim {
        let mut first = Claim::None;
        let lines = headers.get_all(name).iter().rev();
        let mut hops = 0;
        for line in lines {
            let Ok(line) = line.to_str() else { return Claim::Malformed };
            for hop in line.rsplit(',') {
                hops += 1;
                match read(hop.trim()) {
                    Some(address) if self.contains(address) && hops < MAX_HOPS => {
                        first = Claim::Client(address);
                    }
                    Some(address) => return Claim::Client(address),
                    None => return Claim::Malformed,
                }
            }
        }
        // All of them are trusted proxies: the farthest one made the call itself.
        first
    }
}

/// What one header reports about the client.
enum Claim {
    None,
    Malformed,
    Client(IpAddr),
}

/// Parses `203.0.113.9`, `203.0.113.9:443`, `2001:db8::1` or `[2001:db8::1]:443`.
fn address(text: &str) -> Option<IpAddr> {
    let parsed = match text.strip_prefix('[') {
        Some(rest) => {
            let (inner, port) = rest.split_once(']')?;
            let port = port.strip_prefix(':').map_or(port.is_empty(), is_port);
            inner.parse::<Ipv6Addr>().ok().filter(|_| port).map(IpAddr::V6)
        }
        None => {
            let with_port = || text.parse().ok().map(|at: SocketAddr| at.ip());
            text.parse().ok().or_else(with_port)
        }
    };
    parsed.map(|address| address.to_canonical())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

/// Parses the `for` of an RFC 7239 element, such as `for="[2001:db8::1]:443";proto=https`.
/// Obfuscated names (`for=_x`, `for=unknown`) are not addresses.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let value = element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    })?;
    let quoted = value.strip_prefix('"').map(|rest| rest.strip_suffix('"'));
    address(quoted.unwrap_or(Some(value))?)
}

/// The client of a call, or `None` if the host does not know its peer.
pub fn client(trusted: &TrustedProxies, parts: &Parts) -> Option<IpAddr> {
    let ConnectInfo(peer) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(trusted.client(peer.ip(), &parts.headers))
}

/// Reduces an address to its host: an IPv6 host has 2^64 addresses.
pub fn network(address: IpAddr) -> IpAddr {
    const HOST_BITS: u32 = 64;
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() >> HOST_BITS << HOST_BITS).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(trusted: &[&str], peer: &str, lines: &[(&'static str, &str)]) -> String {
        let trusted = TrustedProxies::parse(trusted.iter().copied()).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        trusted.client(peer.parse().unwrap(), &headers).to_string()
    }

    const XFF: &str = "x-forwarded-for";
    const PROXIES: &[&str] = &["10.0.0.0/8", "fd00::/8", "192.0.2.1"];

    #[test]
    fn only_a_trusted_peer_is_believed() {
        let lines = [(XFF, "203.0.113.9")];
        assert_eq!(seen(&[], "10.0.0.7", &lines), "10.0.0.7");
        assert_eq!(seen(PROXIES, "198.51.100.4", &lines), "198.51.100.4");
        assert_eq!(seen(PROXIES, "10.0.0.7", &lines), "203.0.113.9");
        assert_eq!(seen(PROXIES, "::ffff:10.0.0.7", &lines), "203.0.113.9");
        assert_eq!(seen(PROXIES, "10.0.0.7", &[]), "10.0.0.7");
    }

    #[test]
    fn the_right_most_hop_that_is_no_proxy_counts_and_earlier_ones_do_not() {
        for (value, client) in [
            ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
            ("nonsense, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
            ("203.0.113.9,fd00::1, 192.0.2.1", "203.0.113.9"),
            ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
            ("203.0.113.9:5123", "203.0.113.9"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
        ] {
            assert_eq!(seen(PROXIES, "10.0.0.7", &[(XFF, value)]), client, "{value}");
        }
        let lines = [(XFF, "6.6.6.6"), (XFF, "203.0.113.9"), (XFF, "10.1.1.1")];
        assert_eq!(seen(PROXIES, "10.0.0.7", &lines), "203.0.113.9", "lines are one list");
    }

    #[test]
    fn forwarded_is_read_too() {
        for (value, client) in [
            ("for=203.0.113.9", "203.0.113.9"),
            ("for=6.6.6.6, For=\"203.0.113.9:80\";proto=https;by=10.0.0.7", "203.0.113.9"),
            ("proto=https;for=\"[2001:db8::1]:443\"", "2001:db8::1"),
            ("for=203.0.113.9, for=10.1.1.1", "203.0.113.9"),
        ] {
            assert_eq!(seen(PROXIES, "10.0.0.7", &[("forwarded", value)]), client, "{value}");
        }
    }

    #[test]
    fn malformed_headers_and_two_that_disagree_fall_back_to_the_peer() {
        for value in [
            "",
            ",",
            "unknown",
            "203.0.113.9, unknown",
            "203.0.113.9:port",
            "[2001:db8::1",
            "[2001:db8::1]:x",
            "[203.0.113.9]:1",
            "203.0.113.999",
            "é",
        ] {
            assert_eq!(seen(PROXIES, "10.0.0.7", &[(XFF, value)]), "10.0.0.7", "{value}");
        }
        for value in
            ["for=unknown", "for=_hidden", "proto=https", "for=\"203.0.113.9", "203.0.113.9"]
        {
            assert_eq!(seen(PROXIES, "10.0.0.7", &[("forwarded", value)]), "10.0.0.7", "{value}");
        }
        let both = |xff: &str, forwarded: &str| {
            seen(PROXIES, "10.0.0.7", &[(XFF, xff), ("forwarded", forwarded)])
        };
        assert_eq!(both("203.0.113.9", "for=203.0.113.9"), "203.0.113.9");
        assert_eq!(both("203.0.113.9", "for=6.6.6.6"), "10.0.0.7");
    }

    #[test]
    fn endless_chains_are_read_from_their_end_and_no_further() {
        let chain = vec!["10.1.1.1"; 10_000].join(",");
        assert_eq!(seen(PROXIES, "10.0.0.7", &[(XFF, &chain)]), "10.1.1.1");
    }

    #[test]
    fn a_setting_that_is_no_network_is_named() {
        for wrong in ["", "10.0.0.0/33", "proxy.internal", "10.0.0"] {
            let error = TrustedProxies::parse([wrong]).unwrap_err();
            assert!(error.to_string().contains(&format!("'{wrong}'")), "{error}");
        }
    }

    #[test]
    fn the_addresses_of_one_host_are_one() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:0:1:aaaa::1"), of("2001:db8:0:1::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:203.0.113.9"), "203.0.113.9");
    }
}
