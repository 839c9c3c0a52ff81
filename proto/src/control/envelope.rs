//! Framing: length, kind, payload; the ceiling is checked before anything grows.
