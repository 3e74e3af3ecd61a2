//! `EXPOSE`: ports and ranges of ports.

use super::lint::{Rule, rule};
use super::step::Port;
use std::ops::RangeInclusive;

/// Most ports that one instruction may name; there are no more.
pub(super) const MAX_PORTS: usize = 3 * 65_536;

/// The ports of a word such as `80`, `53/udp` or `8000-8010/tcp`. What an address or a host's port before
/// it says has no meaning for an image; both are checked and dropped.
///
/// The rules that the word breaks are reported too.
pub(super) fn parse(word: &str) -> Result<(Vec<Port>, Vec<Rule>), String> {
    let mut broken = Vec::new();
    let mut parts = word.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let address = parts.next().unwrap_or_default();
    let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = match protocol.to_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        _ => return Err(format!("`{protocol}` is no protocol: use tcp, udp or sctp")),
    };
    if container.split_once('/').is_some_and(|(_, written)| written != written.to_lowercase()) {
        broken.push(rule::EXPOSE_PROTO_CASING);
    }
    if !host.is_empty() || !address.is_empty() {
        broken.push(rule::EXPOSE_INVALID_FORMAT);
    }
    let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if !inner.is_empty() && inner.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("`{address}` is no IP address"));
    }
    let range = parse_range(ports)?;
    if !host.is_empty() {
        let host = parse_range(host)?;
        let (own, other) = (range.end() - range.start(), host.end() - host.start());
        if own != 0 && own != other {
            return Err(format!("`{word}`: the two ranges differ in length"));
        }
    }
    Ok((range.map(|number| Port { number, protocol }).collect(), broken))
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let number = |text: &str| {
        let digits = super::go::parse_u32(text.strip_prefix('+').unwrap_or(text), 10);
        let port = digits.and_then(|number| u16::try_from(number).ok());
        port.ok_or_else(|| format!("`{text}` is no port from 0 to 65535"))
    };
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => (number(start)?, number(end)?),
        None => (number(text)?, number(text)?),
    };
    if end < start { Err(format!("the range `{text}` ends before it begins")) } else { Ok(start..=end) }
}
