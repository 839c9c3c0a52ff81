//! HTTP/1.1 message heads, RFC 9112, as far as an opening handshake needs them.
