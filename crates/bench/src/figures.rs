//! A figure beside its peer's, its goal, and how both are shown.

use serde_json::{Value, json};

/// Several measurements of one thing: the median and the extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The one in the middle.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// How many.
    pub count: usize,
}

impl Sample {
    /// Of a value that is the same each time.
    pub fn exact(value: f64) -> Self {
        Self { median: value, low: value, high: value, count: 1 }
    }

    /// Of measurements.
    ///
    /// # Panics
    /// If there are none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[0], values[values.len() - 1]);
        Self { median: values[values.len() / 2], low, high, count: values.len() }
    }

    fn json(&self) -> Value {
        json!({ "median": self.median, "low": self.low, "high": self.high, "count": self.count })
    }
}

/// What a figure should be. Less is better in all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// So many times less than the peer.
    TimesLess(f64),
    /// At most so much of the peer's.
    OfPeer(f64),
    /// At most this.
    AtMost(f64),
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// In what.
    pub unit: &'static str,
    /// Selkis.
    pub ours: Sample,
    /// Who else, and what it needs.
    pub peer: Option<(&'static str, Sample)>,
    /// What it should be.
    pub goal: Option<Goal>,
}

/// Whether a goal is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Met,
    /// It is not.
    Missed,
}

impl Figure {
    /// Ours as a part of the peer's.
    pub fn of_peer(&self) -> Option<f64> {
        self.peer.as_ref().map(|(_, peer)| self.ours.median / peer.median)
    }

    /// Whether the goal is met; `None` without a goal.
    pub fn verdict(&self) -> Option<Verdict> {
        let met = match self.goal? {
            Goal::TimesLess(times) => self.of_peer()? * times <= 1.0,
            Goal::OfPeer(part) => self.of_peer()? <= part,
            Goal::AtMost(value) => self.ours.median <= value,
        };
        Some(if met { Verdict::Met } else { Verdict::Missed })
    }

    fn json(&self) -> Value {
        let goal = self.goal.map(|goal| match goal {
            Goal::TimesLess(times) => json!({ "times_less_than_peer": times }),
            Goal::OfPeer(part) => json!({ "of_peer_at_most": part }),
            Goal::AtMost(value) => json!({ "at_most": value }),
        });
        json!({
            "name": self.name,
            "unit": self.unit,
            "selkis": self.ours.json(),
            "peer": self.peer.as_ref().map(|(name, sample)| json!({ "name": name, "value": sample.json() })),
            "of_peer": self.of_peer(),
            "goal": goal,
            "met": self.verdict().map(|verdict| verdict == Verdict::Met),
        })
    }

    fn row(&self) -> [String; 6] {
        let peer = self.peer.as_ref();
        [
            self.name.clone(),
            cell(&self.ours, self.unit),
            peer.map_or_else(String::new, |(_, sample)| cell(sample, self.unit)),
            self.of_peer().map_or_else(String::new, ratio),
            self.goal.map_or_else(String::new, |goal| goal_text(goal, self.unit)),
            match self.verdict() {
                Some(Verdict::Met) => String::from("met"),
                Some(Verdict::Missed) => String::from("NOT MET"),
                None => String::new(),
            },
        ]
    }
}

/// For programs.
pub fn to_json(figures: &[Figure], notes: &[String]) -> Value {
    json!({ "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(), "notes": notes })
}

/// For people.
pub fn to_table(figures: &[Figure]) -> String {
    let head = ["", "Selkis", "peer", "ratio", "goal", ""].map(String::from);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(figures.iter().map(Figure::row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut table = String::new();
    for row in &rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (text, width) in row[1..].iter().zip(&widths[1..]) {
            line += &format!("  {text:>width$}");
        }
        table += line.trim_end();
        table.push('\n');
    }
    table
}

/// The value, and how far the measurements lie apart.
fn cell(sample: &Sample, unit: &str) -> String {
    let value = quantity(sample.median, unit);
    if sample.count == 1 {
        return value;
    }
    if unit == "%" {
        return format!("{value} ±{:.2}", (sample.high - sample.low) / 2.0);
    }
    let spread = (sample.high - sample.low) / sample.median * 100.0;
    format!("{value} ±{:.0}%", spread / 2.0)
}

fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "ns" if value >= 1e6 => format!("{:.1} ms", value / 1e6),
        "ns" if value >= 1e3 => format!("{:.2} µs", value / 1e3),
        "%" => format!("{value:.2} %"),
        "bytes" => format!("{:.1} KiB", value / 1024.0),
        "instructions" if value < 1e5 => format!("{value:.0}"),
        "instructions" if value >= 1e8 => format!("{:.1} M", value / 1e6),
        "instructions" => format!("{:.3} M", value / 1e6),
        _ => format!("{value:.0} {unit}"),
    }
}

fn ratio(of_peer: f64) -> String {
    if of_peer > 0.0 && of_peer < 0.1 { format!("1/{:.0}", 1.0 / of_peer) } else { format!("{of_peer:.2}") }
}

fn goal_text(goal: Goal, unit: &str) -> String {
    match goal {
        Goal::TimesLess(times) => format!("1/{times:.0}"),
        Goal::OfPeer(part) => format!("≤ {part:.2}"),
        Goal::AtMost(value) => format!("≤ {}", quantity(value, unit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(ours: f64, peer: f64, goal: Goal) -> Figure {
        let peer = Some(("peer", Sample::exact(peer)));
        Figure { name: String::from("f"), unit: "ns", ours: Sample::exact(ours), peer, goal: Some(goal) }
    }

    #[test]
    fn goals_are_met_at_the_bound() {
        assert_eq!(figure(1.0, 1000.0, Goal::TimesLess(1000.0)).verdict(), Some(Verdict::Met));
        assert_eq!(figure(1.1, 1000.0, Goal::TimesLess(1000.0)).verdict(), Some(Verdict::Missed));
        assert_eq!(figure(102.0, 100.0, Goal::OfPeer(1.02)).verdict(), Some(Verdict::Met));
        assert_eq!(figure(103.0, 100.0, Goal::OfPeer(1.02)).verdict(), Some(Verdict::Missed));
        assert_eq!(figure(3.0, 1.0, Goal::AtMost(3.0)).verdict(), Some(Verdict::Met));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let sample = Sample::of(vec![3.0, 1.0, 2.0]);
        assert_eq!(sample, Sample { median: 2.0, low: 1.0, high: 3.0, count: 3 });
    }
}
