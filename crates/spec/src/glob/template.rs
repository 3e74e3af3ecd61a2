//! Keys from captures: the templates of `join_on` and `group_by`.

/// Fills a template: `$n` and `${n}` stand for group `n` (`$0` for the whole path), `$$` for a dollar.
///
/// Digits are taken greedily. A group that does not exist or took no part is empty, and so is a
/// number with a leading zero; a `$` that begins no reference is kept.
pub(super) fn fill<'g>(template: &str, group: impl Fn(usize) -> Option<&'g str>) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        match reference(rest) {
            Some((number, after)) => {
                out.push_str(number.and_then(&group).unwrap_or_default());
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

/// A group number (`None` when no group can have it) and what follows it.
fn reference(text: &str) -> Option<(Option<usize>, &str)> {
    let braced = text.starts_with('{');
    let text = text.strip_prefix('{').unwrap_or(text);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let (name, mut after) = text.split_at(digits);
    if braced {
        after = after.strip_prefix('}')?;
    }
    let leading_zero = name.len() > 1 && name.starts_with('0');
    Some((name.parse().ok().filter(|_| !leading_zero), after))
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn references_are_replaced_and_everything_else_is_kept() {
        let group = |number: usize| ["/path", "one", ""].get(number).copied();
        let rows = [
            ("$1", "one"),
            ("${1}1", "one1"),
            ("$11", ""),
            ("$0:$2:$3", "/path::"),
            ("$$1", "$1"),
            ("$$$1", "$one"),
            ("$x $ ${x} ${1 $", "$x $ ${x} ${1 $"),
            ("${}", "${}"),
            ("$01", ""),
            ("$99999999999999999999999", ""),
            ("é$1é", "éoneé"),
        ];
        for (template, expected) in rows {
            assert_eq!(fill(template, group), expected, "{template}");
        }
    }
}
