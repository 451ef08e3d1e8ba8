//! Cron expressions of five fields: whether a text is one, and which values each field names. When
//! it fires is said by `schedule.rs`. Fields, names and ranges are those of crontab(5), without the
//! `@` words.

use std::ops::Range;

use super::format::Complaint;

struct Part {
    /// With its article.
    name: &'static str,
    low: u32,
    high: u32,
    words: &'static [&'static str],
}

/// `words` stand for `low` and up.
const PARTS: [Part; 5] = [
    Part { name: "a minute", low: 0, high: 59, words: &[] },
    Part { name: "an hour", low: 0, high: 23, words: &[] },
    Part { name: "a day of month", low: 1, high: 31, words: &[] },
    Part {
        name: "a month",
        low: 1,
        high: 12,
        words: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Part {
        name: "a day of week",
        low: 0,
        high: 7,
        words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// Says which part of a cron expression is wrong.
pub(super) fn check(text: &str) -> Result<(), Complaint> {
    if let Some((_, same)) = WORDS.iter().find(|(word, _)| *word == text.trim()) {
        return Err(Complaint::new(format!("`{text}` is not a schedule of five fields"))
            .help(format!("write `{same}`")));
    }
    let fields: Vec<Range<usize>> = words(text);
    if fields.len() != PARTS.len() {
        let count = fields.len();
        return Err(Complaint::new(format!("a schedule has five fields, this one has {count}"))
            .help(
                "write minute, hour, day of month, month and day of week: `0 3 * * *` is every \
                 day at 3:00",
            ));
    }
    PARTS.iter().zip(fields).try_for_each(|(part, at)| field(part, &text[at.clone()], at))
}

/// Which values a field names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Values {
    /// The bit of each.
    pub bits: u64,
    /// Whether it was written as `*`, or steps of that: it restricts nothing by itself.
    pub any: bool,
}

impl Values {
    pub fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits >> value & 1 == 1)
    }
}

/// What each field names: minute, hour, day of month, month, day of week; `None` if it is no cron
/// expression. Sunday is 0.
pub(crate) fn values(text: &str) -> Option<[Values; 5]> {
    check(text).ok()?;
    let mut fields = PARTS.iter().zip(words(text)).map(|(part, at)| named(part, &text[at]));
    let mut next = || fields.next().flatten();
    let mut all = [next()?, next()?, next()?, next()?, next()?];
    let days = &mut all[4].bits;
    *days |= *days >> 7 & 1;
    Some(all)
}

fn named(part: &Part, text: &str) -> Option<Values> {
    let mut bits = 0;
    for item in text.split(',') {
        let (range, step) = item.split_once('/').map_or((item, None), |(r, s)| (r, Some(s)));
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (part.low, part.high),
            Some((first, last)) => (value(part, first)?, value(part, last)?),
            // As crontab has it, a step after a single value goes on to the end.
            None if step.is_some() => (value(part, range)?, part.high),
            None => (value(part, range)?, value(part, range)?),
        };
        let step = step.map_or(Some(1), |step| step.parse::<usize>().ok())?;
        (first..=last).step_by(step.max(1)).for_each(|value| bits |= 1 << value);
    }
    Some(Values { bits, any: text.starts_with('*') })
}

fn words(text: &str) -> Vec<Range<usize>> {
    let start = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    text.split_ascii_whitespace().map(|w| start(w)..start(w) + w.len()).collect()
}

fn field(part: &Part, text: &str, at: Range<usize>) -> Result<(), Complaint> {
    let Part { name, low, high, .. } = part;
    let complain = |what: String| {
        let help = format!(
            "{name} is {low} to {high}, `*`, a range `{low}-{high}`, a list `{low},{high}` or a \
             step `*/2`"
        );
        Err(Complaint::new(what).at(at.clone()).help(help))
    };
    for item in text.split(',') {
        let (range, step) = item.split_once('/').map_or((item, None), |(r, s)| (r, Some(s)));
        if step.is_some_and(|s| s.parse::<u32>().map_or(true, |s| s == 0 || s > *high)) {
            return complain(format!("`{item}` has a step that is no step of {name}"));
        }
        if range == "*" {
            continue;
        }
        let (first, last) = range.split_once('-').map_or((range, range), |(f, l)| (f, l));
        let (Some(first), Some(last)) = (value(part, first), value(part, last)) else {
            return complain(format!("`{item}` is not {name}"));
        };
        if first > last {
            return complain(format!("the range `{item}` goes backwards"));
        }
    }
    Ok(())
}

fn value(part: &Part, text: &str) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    if let Some(index) = (0..).zip(part.words).find(|(_, word)| **word == lower) {
        return Some(part.low + index.0);
    }
    let digits = !text.is_empty() && text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse::<u32>().ok()).flatten()?;
    (part.low..=part.high).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_fields_of_crontab_are_accepted() {
        for good in [
            "* * * * *",
            "0 3 * * *",
            "*/15 0-6,22,23 1 jan-Mar mon-fri",
            "0 0 31 12 7",
            "5-50/5 * * * *",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn the_field_that_is_wrong_is_pointed_at() {
        let part = |text: &str| {
            let at = check(text).expect_err(text).at;
            at.map_or("all", |at| &text[at]).to_owned()
        };
        for all in ["", "* * * *", "* * * * * *", "@daily"] {
            assert_eq!(part(all), "all", "{all}");
        }
        assert_eq!(part("60 * * * *"), "60");
        assert_eq!(part("* 24 * * *"), "24");
        assert_eq!(part("* * 0 * *"), "0");
        assert_eq!(part("* * * x *"), "x");
        assert_eq!(part("* * * * fri-mon"), "fri-mon");
        assert_eq!(part("*/0 * * * *"), "*/0");
        assert_eq!(part("1,,2 * * * *"), "1,,2");
        assert_eq!(part("+5 * * * *"), "+5");
    }
}
