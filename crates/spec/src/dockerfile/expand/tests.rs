use super::*;
use proptest::prelude::*;

fn variables() -> BTreeMap<String, String> {
    let pairs = [("A", "apple"), ("EMPTY", ""), ("B", "two words"), ("P", "/a/b/c.tar.gz"), ("ÖL", "oil")];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The word after expansion, or the message of the error.
fn check(word: &str, expected: &str) {
    let found = match expand(word, &variables(), '\\') {
        Ok(found) => found.text,
        Err(error) => format!("error: {error}"),
    };
    assert_eq!(found, expected, "{word}");
}

#[test]
fn names_end_where_no_letter_follows() {
    check("$A-$A.x", "apple-apple.x");
    check("${A}s $As", "apples ");
    check("$1x $12x $@ $$ $", "x x   $");
    check("$ÖL", "oil");
    check("a$. ${A", "error: `${` is not closed: `}` is missing");
    check("${}", "error: `${` must be followed by a name");
    check("${A;b}", "error: `;` is no operator of a substitution");
    check("${A:=b}", "error: `:=` is no operator of a substitution");
}

#[test]
fn defaults_alternatives_and_demands() {
    check("${A:-x} ${EMPTY:-x} ${NO:-x}", "apple x x");
    check("${A-x} ${EMPTY-x} ${NO-x}", "apple  x");
    check("${A:+x} ${EMPTY:+x} ${NO:+x}", "x  ");
    check("${A+x} ${EMPTY+x} ${NO+x}", "x x ");
    check("${A:?x}${EMPTY?x}", "apple");
    check("${NO?x y}", "error: `NO`: x y");
    check("${EMPTY:?}", "error: `EMPTY`: is not allowed to be empty");
    check("${NO:-${EMPTY:-$A}}", "apple");
    check("${NO:-a'}'b\"$A\"\\}}", "a}bapple}");
}

#[test]
fn patterns_cut_and_replace() {
    check("${P#/*/} ${P##*/} ${P%.*} ${P%%.*}", "b/c.tar.gz c.tar.gz /a/b/c.tar /a/b/c");
    check("${A#?} ${A%?} ${A#x} ${A%%*}", "pple appl apple ");
    check("${A/p/P} ${A//p/P} ${A/p*/-} ${P//\\//:}", "aPple aPPle a- :a:b:c.tar.gz");
    check("${A//x/y} ${A//} ${NO/a/b}", "error: `${` is not closed: `/` is missing");
    check("${A///-}", "-a-p-p-l-e-");
    check("${A/\\a/x}", "error: `\\a` is no pattern: `\\` must stand before `*`, `?`, `\\`, `/` or `}`");
    check("${A#$EMPTY} ${A/$A/pear}", "apple pear");
    check("${P%'.'*}", "/a/b/c.tar");
}

#[test]
fn quotes_and_escapes() {
    check(r#"'$A' "$A" "'$A'" '"'"#, r#"$A apple 'apple' ""#);
    check(r#"\$A \\$A "\$A" "\a" \a '\a'"#, r#"$A \apple $A \a a \a"#);
    check("'a", "error: the quote ' is not closed");
    check("\"a$A", "error: the quote \" is not closed");
    check("a\\", "a");
    let backtick = expand("`$A \\$A \"`$A\"", &variables(), '`').unwrap().text;
    assert_eq!(backtick, "$A \\apple $A");
}

#[test]
fn words_are_split_after_expansion_outside_quotes() {
    let words = |word: &str| expand(word, &variables(), '\\').unwrap().words;
    assert_eq!(words("  a $B \"$B\" b\\ c '' "), ["a", "two", "words", "two words", "b c"]);
    assert_eq!(words("x${NO:-a b}y"), ["xa", "by"]);
    assert!(words(" $EMPTY ").is_empty());
}

#[test]
fn variables_are_told_apart_by_whether_they_are_set() {
    let found = expand("$A ${NO:-$B} ${EMPTY} $OTHER", &variables(), '\\').unwrap();
    assert_eq!(found.matched, ["A", "B", "EMPTY"].map(str::to_owned).into());
    assert_eq!(found.unmatched, ["NO", "OTHER"].map(str::to_owned).into());
}

#[test]
fn hostile_words_are_refused_in_no_time() {
    let deep = "${A:-".repeat(100_000);
    assert_eq!(expand(&deep, &variables(), '\\'), Err(InvalidWord::TooDeep));
    let long = format!("{}$A", "x".repeat(1 << 20));
    assert_eq!(expand(&long, &variables(), '\\').unwrap().text.len(), (1 << 20) + 5);
    let big = BTreeMap::from([("V".to_owned(), "a".repeat(1 << 20))]);
    assert_eq!(expand(&"$V".repeat(20), &big, '\\'), Err(InvalidWord::TooLarge));
    let stars = format!("${{V//{}b/x}}", "*a".repeat(1000));
    assert_eq!(expand(&stars, &big, '\\'), Err(InvalidWord::TooLarge));
    assert_eq!(expand("${V//*a*a*b/x}", &big, '\\').unwrap().text.len(), 1 << 20);
    assert_eq!(expand("${V//a/bb}", &big, '\\').unwrap().text.len(), 2 << 20);
}

proptest! {
    #[test]
    fn any_word_is_expanded_or_refused(word in "[$A{}:?+#%/'\"\\\\* -]{0,24}|.{0,24}") {
        for escape in ['\\', '`'] {
            for keep_unset in [false, true] {
                let lexer = Lexer { keep_unset, ..Lexer::new(escape) };
                if let Ok(found) = lexer.words(&word, &variables()) {
                    let spaces: String = found.text.split_whitespace().collect();
                    prop_assert!(found.words.concat().len() >= spaces.len());
                }
            }
        }
    }

    #[test]
    fn a_word_in_single_quotes_is_itself(word in "[^']{0,24}") {
        prop_assert_eq!(expand(&format!("'{word}'"), &variables(), '\\').unwrap().text, word);
    }

    #[test]
    fn cutting_keeps_one_end(value in "[ab/]{0,12}", pattern in "[ab*?]{1,4}") {
        let variables = BTreeMap::from([("V".to_owned(), value.clone())]);
        let cut = |operator: &str| expand(&format!("${{V{operator}{pattern}}}"), &variables, '\\').unwrap().text;
        let (front, most_front, end, most_end) = (cut("#"), cut("##"), cut("%"), cut("%%"));
        prop_assert!(value.ends_with(&front) && front.ends_with(&most_front));
        prop_assert!(value.starts_with(&end) && end.starts_with(&most_end));
    }
}
