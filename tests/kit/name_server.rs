//! A name server that knows what its test tells it, over UDP: RFC 1035 §4.1, addresses only.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

/// The type of IPv4 addresses, RFC 1035 §3.2.2.
const A: u8 = 1;
/// The type of IPv6 addresses, RFC 3596 §2.1.
const AAAA: u8 = 28;
/// The response code of a name that does not exist.
const NO_SUCH_NAME: u8 = 3;

type Records = Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>;

/// Answers on a thread of its own until the process ends. Its answers may be kept for a second.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    records: Records,
}

impl NameServer {
    /// Starts on a free port of the loopback interface, and knows no name.
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let server = Self { address: socket.local_addr().expect("an address"), records: Records::default() };
        let records = Arc::clone(&server.records);
        std::thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                let _ = socket.send_to(&answer(&query[..length], &records), peer);
            }
        });
        server
    }

    /// Where it is asked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the name has these addresses, in this order.
    pub fn says(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        self.records.lock().expect("nobody panics with the records").insert(name.into(), addresses);
    }
}

/// Header, question, answers; names in answers point at the question.
fn answer(query: &[u8], records: &Records) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_ascii_lowercase()).expect("names are ASCII"));
        at = end;
    }
    let (wanted, end) = (query[at + 2], at + 5);
    let known = records.lock().expect("nobody panics with the records").get(&labels.join(".")).cloned();
    let code = if known.is_some() { 0 } else { NO_SUCH_NAME };
    let data = known.unwrap_or_default().into_iter().filter_map(|address| match (address, wanted) {
        (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
        (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
        _ => None,
    });
    let data: Vec<_> = data.collect();
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, data.len() as u8, 0, 0, 0, 0]);
    reply.extend(&query[12..end]);
    for data in data {
        reply.extend([0xc0, 12, 0, wanted, 0, 1, 0, 0, 0, 1, 0, data.len() as u8]);
        reply.extend(data);
    }
    reply
}
