//! The built-in echo backend: every data message comes back as it went.
//!
//! For trying the gateway and for tests; it knows no API and no configuration.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Bytes of the largest message that is echoed unless said otherwise.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a client may take over its handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Echoes to whoever connects, until it is dropped.
pub async fn serve(listener: TcpListener, message_bytes_max: usize) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    // How one client ends its connection concerns nobody else.
                    let _ = echo(stream, message_bytes_max).await;
                });
            }
            // Out of descriptors, most likely: waiting is all that helps.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn echo(stream: TcpStream, message_bytes_max: usize) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    let accepting = tokio_tungstenite::accept_hdr_async_with_config(stream, first_subprotocol, Some(config));
    let accepted = tokio::time::timeout(HANDSHAKE_WITHIN, accepting).await;
    let mut socket = accepted.map_err(|_| Error::ConnectionClosed)??;
    while let Some(message) = socket.next().await {
        match message? {
            message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
            // The library answers pings and closes.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
        }
    }
    Ok(())
}

/// Browsers drop a connection whose offer of subprotocols was not answered.
#[expect(clippy::result_large_err, reason = "the library's signature")]
fn first_subprotocol(
    request: &Request,
    mut response: Response,
) -> Result<Response, tokio_tungstenite::tungstenite::handshake::server::ErrorResponse> {
    let offer = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|offer| offer.to_str().ok());
    let first = offer.and_then(|offer| offer.split(',').next()).map(str::trim);
    if let Some(first) = first.and_then(|first| HeaderValue::from_str(first).ok()) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, first);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_comes_back_as_it_was() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/any/path?x=1", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, MESSAGE_BYTES_MAX));
        let config = WebSocketConfig::default().max_frame_size(None);
        let connecting = tokio_tungstenite::connect_async_with_config(&url, Some(config), true);
        let (mut socket, _) = connecting.await.unwrap();
        for message in [Message::text("hello"), Message::binary(vec![7; 20 << 20]), Message::text("")] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        socket.close(None).await.unwrap();
        assert!(matches!(socket.next().await, Some(Ok(Message::Close(_))) | None));
    }
}
