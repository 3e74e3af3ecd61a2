//! Text to typed documents with diagnostics; pure.
