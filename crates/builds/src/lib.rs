//! The build service's rules: job specs, staleness, builds, jobs; pure.
