//! Names of signals for `STOPSIGNAL`.

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether a text is a signal of Linux: a number, or a name with or without `SIG`, in any case.
pub(super) fn is_signal(text: &str) -> bool {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return super::go::parse_u32(text, 10).is_some_and(|number| number != 0);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let distance =
        |text: &str, most: u32| super::go::parse_u32(text, 10).is_some_and(|n| (1..=most).contains(&n));
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|n| distance(n, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|n| distance(n, 14))
}
