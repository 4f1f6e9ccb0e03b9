//! Ports for the servers that tests start.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Where ports for servers are chosen: below those that systems give to outgoing connections
/// (Linux from 32,768, others from 49,152), so that no client, not even the one that waits for
/// the server, takes the port before the server does. A node of a Redis cluster listens 10,000
/// above its port, too, and that is below as well.
const PORTS: Range<u16> = 15_000..22_700;

/// A port of this machine that was free a moment ago.
///
/// # Panics
///
/// If none of them is free.
pub fn free_port() -> u16 {
    let any = RandomState::new().build_hasher().finish() % u64::from(PORTS.end - PORTS.start);
    let first = PORTS.start + u16::try_from(any).expect("it is below the end of a u16's range");
    (first..PORTS.end)
        .chain(PORTS.start..first)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .unwrap_or_else(|| panic!("no port of {PORTS:?} is free"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_port_for_a_server_is_none_that_a_client_is_given() {
        // Ours, as this system chooses it.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!PORTS.contains(&client.local_addr().unwrap().port()));
        let free: HashSet<u16> = (0..20).map(|_| free_port()).collect();
        assert!(free.iter().all(|port| PORTS.contains(port)), "{free:?}");
        assert!(free.len() > 1, "tests side by side would all choose {free:?}");
    }
}
