//! Is an address free, and what does the operator listener say? Small questions with deadlines.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Whether the address can be listened on; else what to say.
pub fn is_free(address: SocketAddr, what_for: &str, help: &str) -> Result<(), String> {
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(format!("{address}, meant for {what_for}, is taken by another program; {help}"))
        }
        Err(error) => Err(format!("{address}, meant for {what_for}, cannot be listened on: {error}; {help}")),
    }
}

/// The status of a GET; none without an answer.
pub async fn status(address: SocketAddr, path: &str) -> Option<u16> {
    tokio::time::timeout(ANSWER_WITHIN, ask(reachable(address), path)).await.ok()?
}

async fn ask(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    // `HTTP/1.1 200`
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.ok()?;
    std::str::from_utf8(&head).ok()?.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok()
}

/// Where a listener on every address answers from here.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_taken_is_told_with_what_to_do() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let message = is_free(address, "clients", "choose another with --listen").unwrap_err();
        assert!(message.contains(&address.to_string()) && message.contains("--listen"), "{message}");
        drop(taken);
        assert_eq!(is_free(address, "clients", ""), Ok(()));
    }

    #[tokio::test]
    async fn the_status_of_an_answer_is_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        assert_eq!(status(address, "/ready").await, Some(503));
    }
}
