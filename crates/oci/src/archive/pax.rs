//! The records of a PAX extension header: `<length> <name>=<value>\n`, one after the other.

use super::ArchiveError;

/// What a PAX header says about the next member.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// GNU's notes about a file with holes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub name: Option<Vec<u8>>,
    pub major: Option<u64>,
    pub real_size: Option<u64>,
    /// An older form, which is not read.
    pub old: bool,
}

impl Sparse {
    pub(super) fn is_any(&self) -> bool {
        self.old || self.major.is_some() || self.real_size.is_some()
    }
}

const MALFORMED: ArchiveError = ArchiveError::Malformed("a PAX record is not valid");

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, ArchiveError> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or(MALFORMED)?;
            let length = usize::try_from(decimal(&bytes[..space])?).map_err(|_| MALFORMED)?;
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(MALFORMED);
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(MALFORMED)?;
            records.set(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(records)
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        match name {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.realsize" => self.sparse.real_size = Some(decimal(value)?),
            b"GNU.sparse.map" | b"GNU.sparse.size" | b"GNU.sparse.numblocks" => self.sparse.old = true,
            _ => {
                if let Some(name) = name.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Decimal digits only.
pub(super) fn decimal(text: &[u8]) -> Result<u64, ArchiveError> {
    if text.is_empty() {
        return Err(MALFORMED);
    }
    text.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value
            .checked_mul(10)
            .and_then(|value| value.checked_add(u64::from(digit - b'0')))
            .ok_or(MALFORMED),
        _ => Err(MALFORMED),
    })
}

/// `[-]seconds[.fraction]` as whole seconds, rounded down, and nanoseconds after them.
fn time(text: &[u8]) -> Result<(i64, u32), ArchiveError> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = i64::try_from(decimal(parts.next().unwrap_or_default())?).map_err(|_| MALFORMED)?;
    let mut nanos = 0;
    let fraction = parts.next().unwrap_or_default();
    for position in 0..9 {
        let digit = fraction.get(position).copied().unwrap_or(b'0');
        nanos = nanos * 10
            + if digit.is_ascii_digit() { u32::from(digit - b'0') } else { return Err(MALFORMED) };
    }
    Ok(match (negative, nanos) {
        (false, nanos) => (whole, nanos),
        (true, 0) => (-whole, 0),
        (true, nanos) => (-whole - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_newlines_and_equals_signs() {
        let records = Records::parse(b"29 SCHILY.xattr.user.a=x\ny=z\n9 path=b\n".as_slice()).unwrap();
        assert_eq!(records.xattrs, [(b"user.a".to_vec(), b"x\ny=z".to_vec())]);
        assert_eq!(records.path.as_deref(), Some(b"b".as_slice()));
    }

    #[test]
    fn lengths_must_be_exact() {
        for text in [
            "9 path=b",
            "8 path=b\n",
            "11 path=b\n",
            "99999999999999999999 a=b\n",
            "x",
            "2 \n",
            "-1 a=b\n",
            "5 ab\n",
        ] {
            assert!(Records::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_round_down() {
        assert_eq!(time(b"1.5").unwrap(), (1, 500_000_000));
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"-3").unwrap(), (-3, 0));
        assert_eq!(time(b"7.1234567891").unwrap(), (7, 123_456_789));
        assert!(time(b"1e9").is_err() && time(b"").is_err() && time(b"1.x").is_err());
    }
}
