//! `selkis top`: what domains and their processes use, as it changes.

mod screen;
mod usage;

use super::arguments::TopArguments;
use super::connection::Connection;
use super::{ClientError, json};
use crate::failure::Failure;
use crate::lists::print_json;
use control::System;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use screen::Screen;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use usage::{DomainUsage, ProgramUsage, between};

/// Shows it until the user has seen enough; or once, for a script.
pub fn top(arguments: &TopArguments) -> Result<(), Failure> {
    let system = arguments.target.system.as_ref();
    if arguments.target.json {
        return once(Connection::open(system)?, arguments.interval);
    }
    if !io::stdout().is_terminal() {
        return Err(ClientError::NoTerminal.into());
    }
    let mut connection = Connection::open(system)?;
    let first = connection.list()?;
    let pen = Arc::new(Mutex::new(()));
    restore_on_signals(pen.clone()).map_err(ClientError::Terminal)?;
    // From here on, a panic puts the terminal right as well.
    let terminal = ratatui::try_init().map_err(ClientError::Terminal)?;
    let ended = show(Canvas { terminal, pen }, &mut connection, first, arguments.interval);
    ratatui::try_restore().map_err(ClientError::Terminal)?;
    ended.map_err(Failure::from)
}

fn once(mut connection: Connection, interval: Duration) -> Result<(), Failure> {
    let before = connection.list()?;
    thread::sleep(interval);
    let after = connection.list()?;
    print_json(&json::Usage {
        system: &after.name,
        interval_ns: after.uptime_ns.saturating_sub(before.uptime_ns),
        domains: between(&before, &after).iter().map(written).collect(),
    })
}

fn written<'a>(usage: &DomainUsage<'a>) -> json::DomainUsage<'a> {
    json::DomainUsage {
        name: &usage.domain.name,
        cpu_percent: usage.cpu_percent,
        cpu_ns: usage.domain.usage.cpu_ns,
        memory_used_bytes: usage.domain.usage.memory.used_bytes,
        memory_quota_bytes: usage.domain.memory_quota_bytes,
        programs: usage.programs.iter().map(written_program).collect(),
    }
}

fn written_program<'a>(usage: &ProgramUsage<'a>) -> json::ProgramUsage<'a> {
    json::ProgramUsage {
        name: &usage.program.name,
        cpu_percent: usage.cpu_percent,
        cpu_ns: usage.program.usage.cpu_ns,
        memory_used_bytes: usage.program.usage.memory.used_bytes,
    }
}

/// A terminal that is left as it was drawn on is of no use. Who ends this command by a signal (Ctrl-C comes as a key) gets it back.
fn restore_on_signals(pen: Arc<Mutex<()>>) -> io::Result<()> {
    const SIGNALLED: i32 = 128;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let _held = pen.lock();
            ratatui::restore();
            std::process::exit(SIGNALLED + signal);
        }
    });
    Ok(())
}

/// The terminal while it is drawn on, and who may do so.
struct Canvas {
    terminal: DefaultTerminal,
    /// Who holds it draws. Who ends this command never gives it back.
    pen: Arc<Mutex<()>>,
}

impl Canvas {
    fn draw(&mut self, screen: &Screen) -> Result<(), ClientError> {
        let _held = self.pen.lock();
        self.terminal.draw(|frame| screen.draw(frame)).map_err(ClientError::Terminal)?;
        Ok(())
    }
}

fn show(
    mut canvas: Canvas,
    connection: &mut Connection,
    first: System,
    interval: Duration,
) -> Result<(), ClientError> {
    let mut screen = Screen::new(first);
    loop {
        canvas.draw(&screen)?;
        let next = Instant::now() + interval;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            if !event::poll(left).map_err(ClientError::Terminal)? {
                break;
            }
            match action(&event::read().map_err(ClientError::Terminal)?) {
                Action::Quit => return Ok(()),
                Action::Scroll(rows) => screen.scroll(rows),
                Action::Redraw => {}
                Action::Nothing => continue,
            }
            canvas.draw(&screen)?;
        }
        screen.update(connection.list()?);
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Quit,
    /// So many rows down.
    Scroll(i32),
    /// The terminal has another size.
    Redraw,
    Nothing,
}

fn action(event: &Event) -> Action {
    const PAGE: i32 = 10;
    match event {
        Event::Resize(..) => Action::Redraw,
        Event::Key(KeyEvent { kind: KeyEventKind::Release, .. }) => Action::Nothing,
        Event::Key(KeyEvent { code: KeyCode::Char('c' | 'd'), modifiers: KeyModifiers::CONTROL, .. }) => {
            Action::Quit
        }
        Event::Key(KeyEvent { code, .. }) => match code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Action::Quit,
            KeyCode::Down | KeyCode::Char('j') => Action::Scroll(1),
            KeyCode::Up | KeyCode::Char('k') => Action::Scroll(-1),
            KeyCode::PageDown => Action::Scroll(PAGE),
            KeyCode::PageUp => Action::Scroll(-PAGE),
            _ => Action::Nothing,
        },
        _ => Action::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_the_help_says() {
        let key = |code, modifiers| action(&Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), Action::Quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Action::Quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Action::Nothing);
        assert_eq!(key(KeyCode::Down, KeyModifiers::NONE), Action::Scroll(1));
        assert_eq!(action(&Event::Resize(80, 24)), Action::Redraw);
    }
}
