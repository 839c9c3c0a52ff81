//! RFC 6455: frames, masking, handshakes, fragmentation, close codes, violations.
