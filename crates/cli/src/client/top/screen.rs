//! What `top` draws.

use super::super::escape::escaped;
use super::super::table::{Cell as Word, Tone};
use super::super::{ps, words};
use super::usage::{DomainUsage, ProgramUsage, between};
use control::{Domain, Platform, State, System};
use manifest::units::ByteCount;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Row, Table};

/// Two looks at a system, and from which row on it is shown.
pub struct Screen {
    before: System,
    now: System,
    first_row: usize,
}

const TITLES: [&str; 8] = ["DOMAIN", "PROGRAM", "STATE", "CPU", "MEMORY", "OF", "CPU TIME", "RESTARTS"];

impl Screen {
    /// At the first look nothing is known yet of what is used.
    pub fn new(system: System) -> Self {
        Self { before: system.clone(), now: system, first_row: 0 }
    }

    /// Another look.
    pub fn update(&mut self, system: System) {
        self.before = std::mem::replace(&mut self.now, system);
        self.scroll(0);
    }

    /// Shows the rows that are so much further down.
    pub fn scroll(&mut self, rows: i32) {
        let last = self.now.domains.iter().map(rows_of).sum::<usize>().saturating_sub(1);
        let step = rows.unsigned_abs() as usize;
        let first = if rows < 0 { self.first_row.saturating_sub(step) } else { self.first_row + step };
        self.first_row = first.min(last);
    }

    /// Draws it.
    pub fn draw(&self, frame: &mut Frame) {
        let areas = Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)]);
        let [head, table, foot] = areas.areas(frame.area());
        let usages = between(&self.before, &self.now);
        frame.render_widget(self.head(&usages), head);
        let room = usize::from(table.height.saturating_sub(1));
        let rows: Vec<Row<'_>> = usages.iter().flat_map(|usage| self.rows(usage)).collect();
        let below = rows.len().saturating_sub(self.first_row + room);
        let rows = rows.into_iter().skip(self.first_row).take(room);
        let titles = TITLES.iter().enumerate().map(|(column, title)| aligned(column, (*title).to_owned()));
        frame.render_widget(
            Table::new(rows, widths(&self.now))
                .header(Row::new(titles).style(Style::new().dim()))
                .column_spacing(2),
            table,
        );
        let words = foot_line(below);
        // Hidden, the cursor would have to be shown again at every end, that of a panic too.
        frame
            .set_cursor_position((foot.x + (words.width() as u16).min(foot.width.saturating_sub(1)), foot.y));
        frame.render_widget(words, foot);
    }

    fn head(&self, usages: &[DomainUsage]) -> Text<'static> {
        let System { name, platform, uptime_ns, domains, .. } = &self.now;
        let platform = match platform {
            Platform::Hosted => "hosted",
            Platform::Machine => "on a machine",
        };
        let running = domains.iter().flat_map(|domain| &domain.programs);
        let running = running.filter(|program| program.state == State::Running).count();
        let cpu: f64 = usages.iter().map(|usage| usage.cpu_percent).sum();
        let sum =
            |bytes: fn(&Domain) -> u64| ByteCount(domains.iter().map(bytes).fold(0, u64::saturating_add));
        let used = sum(|domain| domain.usage.memory.used_bytes);
        let quota = sum(|domain| domain.memory_quota_bytes);
        Text::from(vec![
            Line::from(vec![
                escaped(name).bold(),
                format!("  {platform}, up {}", words::time(*uptime_ns)).into(),
            ]),
            Line::from(format!(
                "{} domains, {running} processes running; CPU {cpu:.1}%, memory {used} of {quota}",
                domains.len()
            )),
        ])
    }

    /// A domain, and below it its processes if there are several.
    fn rows(&self, DomainUsage { domain, cpu_percent, programs }: &DomainUsage) -> Vec<Row<'static>> {
        let (program, state) = programs_and_state(domain, self.now.uptime_ns);
        let restarts: u64 =
            domain.programs.iter().map(|program| program.restarts).fold(0, u64::saturating_add);
        let texts = [
            escaped(&domain.name),
            program,
            state.0,
            format!("{cpu_percent:.1}%"),
            ByteCount(domain.usage.memory.used_bytes).to_string(),
            ByteCount(domain.memory_quota_bytes).to_string(),
            words::cpu_time(domain.usage.cpu_ns),
            restarts.to_string(),
        ];
        let mut rows = vec![row(texts, state.1)];
        if rows_of(domain) > 1 {
            rows.extend(programs.iter().map(|usage| program_row(usage, self.now.uptime_ns)));
        }
        rows
    }
}

/// How many rows a domain takes.
fn rows_of(domain: &Domain) -> usize {
    match domain.programs.len() {
        1 => 1,
        count => 1 + count,
    }
}

fn program_row(ProgramUsage { program, cpu_percent }: &ProgramUsage, now_ns: u64) -> Row<'static> {
    let (state, tone) = ps::state(program, now_ns);
    let texts = [
        String::new(),
        escaped(&program.name),
        state,
        format!("{cpu_percent:.1}%"),
        ByteCount(program.usage.memory.used_bytes).to_string(),
        String::new(),
        words::cpu_time(program.usage.cpu_ns),
        program.restarts.to_string(),
    ];
    row(texts, tone)
}

/// `tone` is that of the state.
fn row(texts: [String; TITLES.len()], tone: Tone) -> Row<'static> {
    const STATE: usize = 2;
    Row::new(texts.into_iter().enumerate().map(|(column, text)| {
        let cell = aligned(column, text);
        if column == STATE { cell.style(style(tone)) } else { cell }
    }))
}

/// A domain's program and its state; of several processes, how many.
fn programs_and_state(domain: &Domain, now_ns: u64) -> (String, Word) {
    match &domain.programs[..] {
        [program] => (escaped(&program.name), ps::state(program, now_ns)),
        programs => (format!("{} processes", programs.len()), ps::running(domain)),
    }
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Waiting => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
        Tone::Faint => Style::new().dim(),
    }
}

/// Names take what they need, as far as there is room; figures always fit.
fn widths(system: &System) -> [Constraint; 8] {
    let widest = |texts: &mut dyn Iterator<Item = usize>, title: &str| {
        Constraint::Max(u16::try_from(texts.max().unwrap_or(0).max(title.len())).unwrap_or(u16::MAX))
    };
    let domains = &mut system.domains.iter().map(|domain| domain.name.len());
    let heads = system.domains.iter().map(|domain| programs_and_state(domain, 0).0.len());
    let names = system.domains.iter().flat_map(|domain| &domain.programs).map(|program| program.name.len());
    let programs = &mut heads.chain(names);
    let [figure, state] = [10, 12].map(Constraint::Length);
    [
        widest(domains, TITLES[0]),
        widest(programs, TITLES[1]),
        state,
        Constraint::Length(7),
        figure,
        figure,
        Constraint::Length(8),
        Constraint::Length(8),
    ]
}

/// Words to the left, figures to the right.
fn aligned(column: usize, text: String) -> Cell<'static> {
    const FIRST_FIGURE: usize = 3;
    let side = if column < FIRST_FIGURE { Alignment::Left } else { Alignment::Right };
    Cell::from(Text::from(text).alignment(side))
}

fn foot_line(below: usize) -> Line<'static> {
    let more = if below > 0 { format!("{below} more below: ↓  ") } else { String::new() };
    Line::from(format!("{more}q quits")).dim()
}

#[cfg(test)]
mod tests {
    use super::super::super::ps::tests::system;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let cells = terminal.backend().buffer().content();
        let line =
            |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
        cells.chunks(width.into()).map(line).map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn domains_stand_in_the_order_of_what_they_use() {
        let mut screen = Screen::new(system());
        let mut later = system();
        later.uptime_ns += 2_000_000_000;
        later.domains[1].usage.cpu_ns += 500_000_000;
        screen.update(later);
        assert_eq!(
            drawn(&screen, 90, 8),
            [
                "tenants  hosted, up 3m24s",
                "2 domains, 1 processes running; CPU 25.0%, memory 1.5 MiB of 128 MiB",
                "DOMAIN  PROGRAM      STATE             CPU      MEMORY          OF  CPU TIME  RESTARTS",
                "bob     primes       backoff 1s      25.0%     0 bytes      64 MiB     1m01s        12",
                "alice   2 processes  1 running        0.0%     1.5 MiB      64 MiB     1.23s         0",
                "        clock        running          0.0%     512 KiB                 0.30s         0",
                "        bob          ended            0.0%     512 KiB                 0.30s         0",
                "q quits",
            ]
        );
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut screen = Screen::new(system());
        let lines = drawn(&screen, 90, 5);
        assert_eq!(
            (lines[3].split(' ').next(), lines[4].as_str()),
            (Some("alice"), "3 more below: ↓  q quits")
        );
        screen.scroll(5);
        assert_eq!(drawn(&screen, 90, 5)[3].split(' ').next(), Some("bob"), "not beyond the last");
        screen.scroll(-9);
        assert_eq!(drawn(&screen, 90, 5)[3].split(' ').next(), Some("alice"));
    }

    #[test]
    fn no_size_is_too_small() {
        let screen = Screen::new(system());
        for (width, height) in [(1, 1), (3, 2), (20, 3), (300, 100)] {
            assert_eq!(drawn(&screen, width, height).len(), usize::from(height));
        }
    }
}
