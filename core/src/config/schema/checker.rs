//! As much of JSON Schema and of its regular expressions as our own schema uses, for its tests.
//! What it does not know, it refuses, so that a new keyword cannot go unchecked.

use serde_json::Value;

/// Where and how `value` disagrees with the whole `schema`.
pub(crate) fn check(schema: &Value, value: &Value) -> Vec<String> {
    check_within(schema, schema, value)
}

/// The same for a part of a schema, with the definitions of the whole.
pub(crate) fn check_within(whole: &Value, part: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(whole, part, "$", value, &mut found);
    found
}

fn walk(whole: &Value, schema: &Value, path: &str, value: &Value, found: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        assert_eq!(*schema, Value::Bool(false), "a schema is an object or `false`");
        return found.push(format!("{path}: there is no such field"));
    };
    for (keyword, rule) in keywords {
        let holds = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "examples" => true,
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                walk(whole, whole.pointer(pointer).unwrap(), path, value, found);
                true
            }
            "type" => is(rule.as_str().unwrap(), value),
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "anyOf" => {
                let any = rule.as_array().unwrap();
                any.iter().any(|one| check_within(whole, one, value).is_empty())
            }
            "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap()),
            "minLength" => value.as_str().is_none_or(|s| s.len() as u64 >= rule.as_u64().unwrap()),
            "minItems" => value.as_array().is_none_or(|a| a.len() as u64 >= rule.as_u64().unwrap()),
            "pattern" => value.as_str().is_none_or(|s| matches(rule.as_str().unwrap(), s)),
            "required" => {
                let mut names = rule.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                value.as_object().is_none_or(|o| names.all(|name| o.contains_key(name)))
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    walk(whole, rule, &format!("{path}[{index}]"), item, found);
                }
                true
            }
            "propertyNames" => {
                for name in value.as_object().into_iter().flat_map(|o| o.keys()) {
                    walk(whole, rule, path, &Value::from(name.as_str()), found);
                }
                true
            }
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if let Some(rule) = rule.get(name) {
                        walk(whole, rule, &format!("{path}.{name}"), value, found);
                    }
                }
                true
            }
            "additionalProperties" => {
                let declared =
                    |name: &str| keywords.get("properties").is_some_and(|p| p.get(name).is_some());
                for (name, value) in value.as_object().into_iter().flatten() {
                    if !declared(name) {
                        walk(whole, rule, &format!("{path}.{name}"), value, found);
                    }
                }
                true
            }
            other => panic!("the checker does not know `{other}`"),
        };
        if !holds {
            found.push(format!("{path}: {keyword} {rule}"));
        }
    }
}

fn is(what: &str, value: &Value) -> bool {
    match what {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("the checker does not know the type `{other}`"),
    }
}

/// Whether a part of `text` matches.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (node, rest) = alternatives(&pattern);
    assert!(rest.is_empty(), "unbalanced pattern");
    (0..=text.len()).any(|start| step(&node, &text, start, &mut |_| true))
}

enum Regex {
    Begin,
    End,
    Any,
    Set { negated: bool, ranges: Vec<(char, char)> },
    Either(Vec<Regex>),
    Sequence(Vec<Regex>),
    Repeat { inner: Box<Regex>, least: usize, most: usize },
}

fn alternatives(mut pattern: &[char]) -> (Regex, &[char]) {
    let mut all = Vec::new();
    loop {
        let (one, rest) = sequence(pattern);
        all.push(one);
        match rest {
            ['|', rest @ ..] => pattern = rest,
            rest => return (Regex::Either(all), rest),
        }
    }
}

fn sequence(mut pattern: &[char]) -> (Regex, &[char]) {
    let mut all = Vec::new();
    while !matches!(pattern, [] | ['|' | ')', ..]) {
        let (one, rest) = atom(pattern);
        let (least, most, rest) = quantifier(rest);
        all.push(Regex::Repeat { inner: Box::new(one), least, most });
        pattern = rest;
    }
    (Regex::Sequence(all), pattern)
}

fn quantifier(pattern: &[char]) -> (usize, usize, &[char]) {
    match pattern {
        ['?', rest @ ..] => (0, 1, rest),
        ['*', rest @ ..] => (0, usize::MAX, rest),
        ['+', rest @ ..] => (1, usize::MAX, rest),
        ['{', rest @ ..] => {
            let end = rest.iter().position(|c| *c == '}').unwrap();
            let ends: String = rest[..end].iter().collect();
            let (least, most) = ends.split_once(',').unwrap();
            (least.parse().unwrap(), most.parse().unwrap(), &rest[end + 1..])
        }
        rest => (1, 1, rest),
    }
}

fn atom(pattern: &[char]) -> (Regex, &[char]) {
    let one = |c: char| Regex::Set { negated: false, ranges: vec![(c, c)] };
    match pattern {
        ['^', rest @ ..] => (Regex::Begin, rest),
        ['$', rest @ ..] => (Regex::End, rest),
        ['.', rest @ ..] => (Regex::Any, rest),
        ['(', '?', ..] => panic!("the checker does not know `(?`"),
        ['(', rest @ ..] => {
            let (inner, rest) = alternatives(rest);
            (inner, rest.strip_prefix(&[')']).unwrap())
        }
        ['[', '^', rest @ ..] => set(true, rest),
        ['[', rest @ ..] => set(false, rest),
        ['\\', 's', rest @ ..] => (Regex::Set { negated: false, ranges: BLANKS.to_vec() }, rest),
        ['\\', c, rest @ ..] => (one(*c), rest),
        [c, rest @ ..] => (one(*c), rest),
        [] => panic!("an atom is missing"),
    }
}

const BLANKS: [(char, char); 2] = [('\t', '\r'), (' ', ' ')];

fn set(negated: bool, mut pattern: &[char]) -> (Regex, &[char]) {
    let mut ranges = Vec::new();
    loop {
        pattern = match pattern {
            [']', rest @ ..] => return (Regex::Set { negated, ranges }, rest),
            ['\\', 's', rest @ ..] => {
                ranges.extend(BLANKS);
                rest
            }
            [low, '-', high, rest @ ..] if *high != ']' => {
                ranges.push((*low, *high));
                rest
            }
            [c, rest @ ..] => {
                ranges.push((*c, *c));
                rest
            }
            [] => panic!("a set is not closed"),
        }
    }
}

/// Whether `node` matches at `at` such that what follows matches too.
fn step(node: &Regex, text: &[char], at: usize, next: &mut dyn FnMut(usize) -> bool) -> bool {
    match node {
        Regex::Begin => at == 0 && next(at),
        Regex::End => at == text.len() && next(at),
        Regex::Any => text.get(at).is_some_and(|c| *c != '\n') && next(at + 1),
        Regex::Set { negated, ranges } => {
            let within = |c: &char| ranges.iter().any(|(low, high)| (*low..=*high).contains(c));
            text.get(at).is_some_and(|c| within(c) != *negated) && next(at + 1)
        }
        Regex::Either(all) => all.iter().any(|one| step(one, text, at, next)),
        Regex::Sequence(all) => in_order(all, text, at, next),
        Regex::Repeat { inner, least, most } => repeat(inner, *least, *most, text, at, next),
    }
}

fn in_order(all: &[Regex], text: &[char], at: usize, next: &mut dyn FnMut(usize) -> bool) -> bool {
    match all.split_first() {
        None => next(at),
        Some((first, rest)) => step(first, text, at, &mut |at| in_order(rest, text, at, next)),
    }
}

fn repeat(
    inner: &Regex,
    least: usize,
    most: usize,
    text: &[char],
    at: usize,
    next: &mut dyn FnMut(usize) -> bool,
) -> bool {
    let more = most > 0
        && step(inner, text, at, &mut |after| {
            // A repetition that takes nothing would go on for ever.
            (after > at || least > 0)
                && repeat(inner, least.saturating_sub(1), most - 1, text, after, next)
        });
    more || (least == 0 && next(at))
}

#[test]
fn patterns_are_matched_as_in_editors() {
    for (pattern, good, bad) in [
        ("^a(b|c)?$", &["a", "ab", "ac"][..], &["", "b", "abc"][..]),
        ("^[a-z]([a-z0-9-]{0,3}[a-z0-9])?$", &["a", "a-b", "ab-c9"], &["-a", "a-", "abcdef"]),
        ("^[^@\\s]+@", &["a@", "a.b@c"], &["@", "a b@"]),
        ("b", &["abc", "b"], &["", "ac"]),
    ] {
        good.iter().for_each(|text| assert!(matches(pattern, text), "{pattern} {text}"));
        bad.iter().for_each(|text| assert!(!matches(pattern, text), "{pattern} {text}"));
    }
}
