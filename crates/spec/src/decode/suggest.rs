//! The word that was probably meant.

/// The candidate closest to `word`, if one is close: case and separators aside, at most one edit in
/// three characters. The first of equally close candidates wins.
pub fn closest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = folded(word);
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let near = |candidate: &&'a str| {
        let candidate = folded(candidate);
        let most = word.len().max(candidate.len()).div_ceil(3).min(4);
        let distance = edits(&word, &candidate);
        (distance <= most && distance < candidate.len()).then_some(distance)
    };
    let scored = candidates.iter().filter_map(|candidate| Some((near(candidate)?, *candidate)));
    scored.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

fn folded(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["cmd", "image", "err_cmd", "parallelism_spec", "transform", "input"];
        let check = |word, expected| assert_eq!(closest(word, &known), expected, "{word}");
        check("Image", Some("image"));
        check("imgae", Some("image"));
        check("errCmd", Some("err_cmd"));
        check("transfrom", Some("transform"));
        check("parallelism", Some("parallelism_spec"));
        check("inputs", Some("input"));
        check("xyzzy", None);
        check("", None);
        check(&"a".repeat(10_000), None);
    }
}
