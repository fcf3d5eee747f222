use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use crate::answer::{HttpAnswer, Reply, ScriptedAnswer};

/// How badly a token endpoint treats those who refresh: each refresh has a fate, which comes from the
/// seed and its number alone. Exchanges are left alone.
#[derive(Debug, Clone)]
pub struct Hostility {
    /// The same seed, the same fates.
    pub seed: u64,
    /// Of a hundred refreshes, so many close the connection and have no effect.
    pub lost_requests: u8,
    /// So many have their effect (the token is replaced), and then close the connection.
    pub lost_answers: u8,
    /// So many are answered 503, in place of having an effect.
    pub unavailable: u8,
    /// Every end comes after a delay of its own, up to this one.
    pub max_delay: Duration,
}

impl Hostility {
    /// What becomes of the refresh with that number.
    pub(super) fn fate(&self, number: u64) -> ScriptedAnswer {
        let hash = digest(&SHA256, format!("{}\0{number}", self.seed).as_bytes());
        let bytes = hash.as_ref().first_chunk::<4>().expect("SHA-256 has 32 bytes");
        let percent = u16::from_be_bytes([bytes[0], bytes[1]]) % 100;
        let share = f64::from(u16::from_be_bytes([bytes[2], bytes[3]])) / 65_536.0;
        let delay = self.max_delay.mul_f64(share);

        let after_lost_requests = percent.checked_sub(self.lost_requests.into());
        let after_lost_answers =
            after_lost_requests.and_then(|rest| rest.checked_sub(self.lost_answers.into()));
        let (reply, after_processing) = match (after_lost_requests, after_lost_answers) {
            (None, _) => (Reply::Dropped, false),
            (Some(_), None) => (Reply::Dropped, true),
            (_, Some(rest)) if rest < u16::from(self.unavailable) => {
                let answer = HttpAnswer::text(503, "").with_header("retry-after", "1");
                (Reply::Answer(answer), false)
            }
            (_, Some(_)) => (Reply::Usual, false),
        };
        ScriptedAnswer { reply, delay, after_processing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence_of_fates_in_the_proportions_asked_for() {
        let hostility = Hostility {
            seed: 7,
            lost_requests: 10,
            lost_answers: 20,
            unavailable: 30,
            max_delay: Duration::from_secs(1),
        };
        let fates: Vec<_> = (0..1000).map(|number| hostility.fate(number)).collect();
        assert_eq!(
            fates[..10],
            (0..10).map(|number| hostility.fate(number)).collect::<Vec<_>>()[..]
        );
        let count = |is: fn(&ScriptedAnswer) -> bool| fates.iter().filter(|fate| is(fate)).count();
        for (expected, counted) in [
            (100, count(|fate| fate.reply == Reply::Dropped && !fate.after_processing)),
            (200, count(|fate| fate.reply == Reply::Dropped && fate.after_processing)),
            (300, count(|fate| matches!(fate.reply, Reply::Answer(_)))),
            (400, count(|fate| fate.reply == Reply::Usual)),
        ] {
            assert!(counted.abs_diff(expected) < 50, "{counted} for {expected}");
        }
        assert!(fates.iter().all(|fate| fate.delay < Duration::from_secs(1)));
        let other = Hostility { seed: 8, ..hostility };
        assert_ne!(fates[..10], (0..10).map(|number| other.fate(number)).collect::<Vec<_>>()[..]);
    }
}
