//! Free TCP ports for the servers that tests start.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// The range from which server ports are chosen. It is below the ephemeral ports that systems
/// assign to outgoing connections (Linux from 32,768, others from 49,152), so that no client,
/// not even the one that waits for the server, takes the port first. A Redis cluster node also
/// listens on its port plus 10,000, which is below that range too.
const PORTS: Range<u16> = 15_000..22_700;

/// Returns a local port that was free a moment ago.
///
/// # Panics
///
/// If no port of the range is free.
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
        // A client port as this system assigns it.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!PORTS.contains(&client.local_addr().unwrap().port()));
        let free: HashSet<u16> = (0..20).map(|_| free_port()).collect();
        assert!(free.iter().all(|port| PORTS.contains(port)), "{free:?}");
        assert!(free.len() > 1, "tests side by side would all choose {free:?}");
    }
}
