//! How fast a process may write to its output streams.

/// How long a process waits that has used up what it might write: long enough that it does not write byte by byte then.
const WAIT_NS: u64 = 100_000_000;

const NS_PER_S: u64 = 1_000_000_000;

/// So many bytes in a second, and as many at once after a second without.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    bytes_per_s: u64,
    /// What may be written now.
    bytes: u64,
    /// When that was so.
    at_ns: u64,
    /// When more may be written, since there was nothing left.
    again_ns: u64,
}

impl Rate {
    /// Of a process that begins now.
    pub fn new(bytes_per_s: u64, now_ns: u64) -> Self {
        Self { bytes_per_s, bytes: bytes_per_s, at_ns: now_ns, again_ns: 0 }
    }

    /// How much may be written now.
    pub fn room(&mut self, now_ns: u64) -> u64 {
        if now_ns < self.again_ns {
            return 0;
        }
        let passed_ns = u128::from(now_ns.saturating_sub(self.at_ns));
        let earned = passed_ns * u128::from(self.bytes_per_s) / u128::from(NS_PER_S);
        if earned > 0 {
            let bytes = u128::from(self.bytes).saturating_add(earned).min(u128::from(self.bytes_per_s));
            // What was not yet a byte counts the next time.
            let used_ns = (earned * u128::from(NS_PER_S)).div_ceil(u128::from(self.bytes_per_s));
            (self.bytes, self.at_ns) = (bytes as u64, self.at_ns + used_ns as u64);
        }
        if self.bytes == 0 {
            // Of a slow rate one byte takes longer.
            let byte_ns = NS_PER_S.div_ceil(self.bytes_per_s.max(1));
            self.again_ns = now_ns.saturating_add(WAIT_NS.max(byte_ns));
        }
        self.bytes
    }

    /// So much was written.
    pub fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }

    /// When there is room again, if there is none.
    pub fn again_ns(&self) -> u64 {
        self.again_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What somebody writes who always writes as much as he may, and looks again each time when there is room, or so often.
    fn written(rate: &mut Rate, begin_ns: u64, for_ns: u64, look_ns: u64) -> u64 {
        let (mut bytes, mut now_ns) = (0, begin_ns);
        while now_ns < begin_ns + for_ns {
            let room = rate.room(now_ns);
            rate.spend(room as usize);
            bytes += room;
            now_ns = (now_ns + look_ns).max(if room == 0 { rate.again_ns() } else { 0 });
        }
        bytes
    }

    #[test]
    fn it_is_kept_however_often_somebody_looks() {
        for bytes_per_s in [1, 10, 1000, 1 << 20, 3 << 30] {
            for look_ns in [1_000_000, 7_777_777, 150_000_000, 2_000_000_000] {
                let mut rate = Rate::new(bytes_per_s, 0);
                let bytes = written(&mut rate, 0, 100 * NS_PER_S, look_ns);
                // A second's worth is there at the beginning.
                let most = bytes_per_s * 101;
                assert!(bytes <= most, "{bytes_per_s} B/s, seen each {look_ns} ns: {bytes}");
                if look_ns < NS_PER_S {
                    // The last look may be a wait and a byte before the end.
                    let least = most - most / 50 - 2;
                    assert!(bytes >= least, "{bytes_per_s} B/s, seen each {look_ns} ns: {bytes}");
                }
            }
        }
    }

    #[test]
    fn who_has_used_it_up_waits_and_who_is_silent_saves_a_second_and_no_more() {
        let mut rate = Rate::new(1000, 5);
        assert_eq!(rate.room(5), 1000);
        rate.spend(1000);
        assert_eq!(rate.room(5), 0);
        assert_eq!(rate.again_ns(), 5 + WAIT_NS);
        assert_eq!(rate.room(4 + WAIT_NS), 0, "not byte by byte");
        assert_eq!(rate.room(5 + WAIT_NS), 100);
        assert_eq!(rate.room(3600 * NS_PER_S), 1000);
        rate.spend(2000);
        assert_eq!(rate.room(3600 * NS_PER_S), 0);
    }

    #[test]
    fn there_may_be_none_at_all_or_no_end_to_it() {
        let mut none = Rate::new(0, 0);
        assert_eq!((none.room(u64::MAX / 2), none.again_ns() > u64::MAX / 2), (0, true));
        let mut all = Rate::new(u64::MAX, 0);
        all.spend(usize::MAX);
        assert_eq!(all.room(0), 0);
        assert!(all.room(u64::MAX) > u64::MAX / 2);
    }
}
