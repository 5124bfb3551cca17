//! Points in time as certificates and our own records know them: whole seconds, UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use der::DateTime;
use serde::{Deserialize, Serialize};
use x509_cert::time::Time;

/// A second in UTC between 1970 and 9999, written as `2027-01-31T12:00:00Z` (RFC 3339).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Moment(DateTime);

/// A time that cannot stand in a certificate.
#[derive(Debug, thiserror::Error)]
#[error("the time is not between 1970 and 9999, or not written like 2027-01-31T12:00:00Z")]
pub struct MomentError(#[source] der::Error);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Moment {
    /// This moment and `days` days of 24 hours.
    ///
    /// # Errors
    /// When the sum is past the year 9999.
    pub fn plus_days(self, days: u32) -> Result<Self, MomentError> {
        DateTime::from_unix_duration(self.0.unix_duration().saturating_add(DAY * days))
            .map(Self)
            .map_err(MomentError)
    }

    /// The moment `span` before this one, or 1970 when there is none.
    ///
    /// # Errors
    /// Never in practice: every earlier moment can be written.
    pub fn minus(self, span: Duration) -> Result<Self, MomentError> {
        DateTime::from_unix_duration(self.0.unix_duration().saturating_sub(span))
            .map(Self)
            .map_err(MomentError)
    }

    /// The form of RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime after.
    pub(super) fn to_x509(self) -> Time {
        Time::from(self.0)
    }
}

impl TryFrom<SystemTime> for Moment {
    type Error = MomentError;

    fn try_from(time: SystemTime) -> Result<Self, MomentError> {
        DateTime::from_system_time(time)
            .map(Self)
            .map_err(MomentError)
    }
}

impl From<Time> for Moment {
    fn from(time: Time) -> Self {
        Self(time.to_date_time())
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        text.parse().map(Self).map_err(MomentError)
    }
}

impl TryFrom<String> for Moment {
    type Error = MomentError;

    fn try_from(text: String) -> Result<Self, MomentError> {
        text.parse()
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_being_written_and_read() {
        let moment: Moment = "2027-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(moment.to_string(), "2027-01-31T12:00:00Z");
        assert_eq!(
            moment.plus_days(1).unwrap().to_string(),
            "2027-02-01T12:00:00Z"
        );
        assert!("yesterday".parse::<Moment>().is_err());
    }

    #[test]
    fn parts_of_a_second_are_dropped() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_999);
        let moment = Moment::try_from(time).unwrap();
        assert_eq!(moment.to_string(), "2027-01-15T08:00:00Z");
    }

    #[test]
    fn the_year_10000_is_refused() {
        let last: Moment = "9999-12-31T00:00:00Z".parse().unwrap();
        assert!(last.plus_days(2).is_err());
    }
}
