//! Calendar dates to seconds since 1970.

/// A date and time of day as firmware tells it (UEFI 2.10, section 8.3, `EFI_TIME`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// 1900 to 9999.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// Minutes that must be added for UTC; `None`: the firmware does not know, and UTC is assumed.
    pub offset_minutes: Option<i16>,
}

impl Calendar {
    /// Seconds since 1970-01-01T00:00:00Z, or `None` for a date that is none.
    pub fn unix_seconds(&self) -> Option<i64> {
        let sound = (1900..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60;
        if !sound {
            return None;
        }
        let time = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        let offset = i64::from(self.offset_minutes.unwrap_or(0)) * 60;
        Some(self.days_since_1970() * 86_400 + time + offset)
    }

    /// Counted in years that begin on 1 March, so that the leap day is the last of its year.
    fn days_since_1970(&self) -> i64 {
        /// Days from 0000-03-01 to 1970-01-01 in the Gregorian calendar.
        const EPOCH_DAYS: i64 = 719_468;
        let (year, month) = (i64::from(self.year), i64::from(self.month));
        let (year, months_since_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let leap_days = year / 4 - year / 100 + year / 400;
        // Months from March on have 31, 30, 31, 30, 31 days, and so again: 153 in five.
        let day_of_year = (153 * months_since_march + 2) / 5 + i64::from(self.day) - 1;
        year * 365 + leap_days + day_of_year - EPOCH_DAYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(year: u16, month: u8, day: u8) -> Calendar {
        Calendar { year, month, day, hour: 0, minute: 0, second: 0, offset_minutes: None }
    }

    #[test]
    fn known_dates() {
        assert_eq!(at(1970, 1, 1).unix_seconds(), Some(0));
        assert_eq!(at(2000, 2, 29).unix_seconds(), Some(951_782_400));
        assert_eq!(at(2100, 3, 1).unix_seconds(), Some(4_107_542_400));
        let noon = Calendar { hour: 12, minute: 34, second: 56, ..at(2026, 11, 22) };
        assert_eq!(noon.unix_seconds(), Some(1_795_350_896));
        let zoned = Calendar { offset_minutes: Some(-60), ..noon };
        assert_eq!(zoned.unix_seconds(), Some(1_795_350_896 - 3600));
    }

    #[test]
    fn days_follow_each_other() {
        let lengths = |year: u16| {
            let divides = |n: u16| year.is_multiple_of(n);
            let leap = divides(4) && (!divides(100) || divides(400));
            [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        };
        let mut expected = at(1900, 1, 1).unix_seconds().unwrap();
        for year in 1900..2500 {
            for (month, length) in (1..).zip(lengths(year)) {
                for day in 1..=length {
                    assert_eq!(at(year, month, day).unix_seconds(), Some(expected));
                    expected += 86_400;
                }
            }
        }
    }

    #[test]
    fn no_date() {
        assert_eq!(at(2026, 0, 1).unix_seconds(), None);
        assert_eq!(at(2026, 13, 1).unix_seconds(), None);
        assert_eq!(at(0, 1, 1).unix_seconds(), None);
    }
}
