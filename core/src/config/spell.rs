//! Values as one would write them in `mill.toml`: what is said here can be pasted there.
//!
//! Durations and cores print that way by themselves. Sizes do not: what a person reads of a
//! machine may be rounded, what is written in a config may not.

use crate::units::Bytes;

/// Units of sizes, from the one that is preferred where two spellings are equally short.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// The shortest spelling of exactly this size.
pub(super) fn size(bytes: Bytes) -> String {
    let spelled = UNITS.iter().filter_map(|(unit, of)| {
        let thousandths = u128::from(bytes.0) * 1000;
        let (whole, part) = (thousandths / u128::from(*of), thousandths % u128::from(*of));
        // Three decimals are read; a fraction of a unit alone reads worse than the next unit.
        let exact = part == 0 && (whole >= 1000 || *of == 1);
        exact.then(|| format!("{}{unit}", decimal(whole)))
    });
    spelled.min_by_key(String::len).expect("every size is a number of bytes")
}

fn decimal(thousandths: u128) -> String {
    let (whole, rest) = (thousandths / 1000, thousandths % 1000);
    match rest {
        0 => whole.to_string(),
        rest => format!("{whole}.{}", format!("{rest:03}").trim_end_matches('0')),
    }
}

/// A string: bare where that cannot be misread, else in quotes.
pub(super) fn text(text: &str) -> String {
    let plain = !text.is_empty()
        && text.trim() == text
        && !text.starts_with(['"', '[', '{'])
        && !text.chars().any(char::is_control);
    if plain { text.to_owned() } else { quoted(text) }
}

/// A string in quotes: what JSON writes is a basic string of TOML too.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// An array of strings on one line.
pub(super) fn array<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<String> = items.into_iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::grammar::{LARGEST, LONGEST, MOST_CPU};
    use crate::units::{Millicores, Millis};

    #[test]
    fn a_size_is_spelled_as_short_as_it_can_be_said_exactly() {
        let same = ["20GiB", "512MiB", "1.5GiB", "100MB", "1GB", "0B", "1B", "1025B", "2.5KB"];
        for text in same {
            assert_eq!(size(text.parse().unwrap()), text);
        }
        assert_eq!(size("1024MiB".parse().unwrap()), "1GiB");
        assert_eq!(size("0.5GiB".parse().unwrap()), "512MiB");
    }

    #[test]
    fn a_string_is_quoted_where_it_could_be_misread() {
        for plain in ["web:1", "a b", "${secret(db)}", "it's \"so\""] {
            assert_eq!(text(plain), plain);
        }
        for (odd, said) in [("", "\"\""), (" a", "\" a\""), ("a\nb", "\"a\\nb\""), ("[]", "\"[]\"")]
        {
            assert_eq!(text(odd), said);
        }
        assert_eq!(array(["./web", "a \"b\""]), r#"["./web", "a \"b\""]"#);
    }

    proptest! {
        #[test]
        fn a_size_reads_back_as_itself(bytes in 0..=LARGEST.0, unit in 0..UNITS.len()) {
            let (_, of) = UNITS[unit];
            for bytes in [bytes, bytes / of * of] {
                prop_assert_eq!(size(Bytes(bytes)).parse(), Ok(Bytes(bytes)));
            }
        }

        #[test]
        fn a_duration_reads_back_as_itself(length in 0..=LONGEST.0, unit in 1..100_000u64) {
            for length in [length, length / unit * unit] {
                prop_assert_eq!(Millis(length).to_string().parse(), Ok(Millis(length)));
            }
        }

        #[test]
        fn a_number_of_cores_reads_back_as_itself(cores in 0..=MOST_CPU.0) {
            prop_assert_eq!(Millicores(cores).to_string().parse(), Ok(Millicores(cores)));
        }

        #[test]
        fn a_quoted_string_is_that_string_in_toml(text in ".*") {
            let read: toml::Table = toml::from_str(&format!("a = {}", quoted(&text))).unwrap();
            prop_assert_eq!(read["a"].as_str(), Some(text.as_str()));
        }
    }
}
