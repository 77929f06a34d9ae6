//! Whether two CPUs' time-stamp counters say the same. Pure logic.

/// One question of the first CPU to another: the first's counter before it asked and after it had the answer, and what the other
/// read in between.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Before.
    pub asked: u64,
    /// The other's.
    pub answer: u64,
    /// After.
    pub heard: u64,
}

impl Round {
    const fn is_possible(&self) -> bool {
        self.asked <= self.answer && self.answer <= self.heard
    }
}

/// How far the other counter is ahead, by the quickest of the rounds; `None` if it could be right in all of them.
pub fn ahead(rounds: &[Round]) -> Option<i64> {
    if rounds.iter().all(Round::is_possible) {
        return None;
    }
    let quickest = rounds.iter().min_by_key(|round| round.heard.wrapping_sub(round.asked))?;
    let middle = quickest.asked.wrapping_add(quickest.heard.wrapping_sub(quickest.asked) / 2);
    Some(quickest.answer.wrapping_sub(middle) as i64)
}
