//! How much of the root's time goes to what a domain says.
//!
//! A library OS of ours keeps to credit and rates, but nothing depends on that: what a domain says may be anything, without end. So
//! the time that the root takes for it is counted, and who has had its part is not heard again before its time. Meanwhile the
//! root listens to clients and to other domains, or sleeps.

/// Of a CPU's time, all domains together get at most one part in so many.
const PARTS: u64 = 4;
/// What a domain has not used of its time is kept for so long, so that one that says little can say it at once.
const KEPT_NS: u64 = 1_000_000_000;
/// Who has had more than its time waits no longer than this: what it is told to do, it has to be able to answer.
pub const WAIT_NS_MAX: u64 = 200_000_000;

/// What a domain has had of the root's time.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Its part is one in so many.
    parts: u64,
    /// The time that it has had is its part of all time up to then.
    even_ns: u64,
}

impl Attention {
    /// For one of so many domains.
    pub fn new(domains: usize) -> Self {
        Self { parts: PARTS * domains.max(1) as u64, even_ns: 0 }
    }

    /// To hear it has taken so long, up to now.
    pub fn took(&mut self, took_ns: u64, now_ns: u64) {
        let even_ns = self.even_ns.max(now_ns).saturating_add(took_ns.saturating_mul(self.parts));
        self.even_ns = even_ns.min(now_ns.saturating_add(KEPT_NS + WAIT_NS_MAX));
    }

    /// From when on it may be heard. But if it has ended, the rest of what it has said is heard at any time: there is an end to that.
    pub fn due_ns(&self) -> u64 {
        self.even_ns.saturating_sub(KEPT_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// How much time goes to one of so many domains, in which there is always more to hear, of `time_ns`.
    fn heard_ns(domains: usize, each_ns: u64, time_ns: u64) -> u64 {
        let mut attention = Attention::new(domains);
        let (mut now_ns, mut heard_ns) = (0, 0);
        while now_ns < time_ns {
            let due_ns = attention.due_ns();
            assert!(due_ns <= now_ns + WAIT_NS_MAX, "it waits too long");
            now_ns = now_ns.max(due_ns) + each_ns;
            heard_ns += each_ns;
            attention.took(each_ns, now_ns);
        }
        heard_ns
    }

    #[test]
    fn who_never_stops_has_its_part_and_no_more() {
        let time_ns = 100 * SECOND_NS;
        for domains in [1, 2, 10] {
            let part_ns = (time_ns + KEPT_NS) / (4 * domains as u64);
            let heard_ns = heard_ns(domains, 1_000_000, time_ns);
            assert!(heard_ns.abs_diff(part_ns) <= 1_000_000, "{domains}: {heard_ns} of {part_ns}");
        }
        // One of many waits no longer, so that it has more than its part.
        let heard_ns = heard_ns(1000, 1_000_000, time_ns);
        assert!(heard_ns <= time_ns / 200, "{heard_ns}");
    }

    #[test]
    fn who_says_little_is_heard_at_once() {
        let mut attention = Attention::new(2);
        for second in 0..100 {
            let now_ns = second * SECOND_NS;
            assert!(attention.due_ns() <= now_ns);
            attention.took(SECOND_NS / 8, now_ns);
        }
    }
}
