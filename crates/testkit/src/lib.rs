//! Fakes and conformance suites; a dev-dependency only.
