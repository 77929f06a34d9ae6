//! Lines of programs on this command's own streams.

use super::escape::{escaped, escaped_bytes};
use super::table::Colour;
use control::{Line, LineEnd, LogPiece, ProgramName, Stream};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, UNIX_EPOCH};
use unicode_width::UnicodeWidthStr;

/// Where lines go: those of standard output, and the others.
pub struct Printer {
    sinks: [Sink; 2],
    /// Whether and how far lines begin with their program's name.
    label: Option<usize>,
    clock: Clock,
}

/// What time lines begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// None.
    None,
    /// The time of day, of a system that started then, in nanoseconds since 1970.
    Utc(u64),
    /// The time since the start of a system that does not know the time of day.
    Uptime,
}

impl Clock {
    /// The best that there is.
    pub fn since(started_unix_ns: Option<u64>) -> Self {
        started_unix_ns.map_or(Self::Uptime, Self::Utc)
    }

    fn prefix(self, at_ns: u64) -> String {
        let time = Duration::from_nanos(at_ns);
        match self {
            Self::None => String::new(),
            Self::Uptime => format!("{}.{:03}s ", time.as_secs(), time.subsec_millis()),
            Self::Utc(started_unix_ns) => {
                let at = UNIX_EPOCH + Duration::from_nanos(started_unix_ns) + time;
                format!("{} ", humantime::format_rfc3339_millis(at))
            }
        }
    }
}

/// A stream of this command.
pub struct Sink {
    out: Box<dyn Write>,
    kind: Kind,
    /// The line that has no end yet.
    open: Option<Open>,
}

/// A line that has no end yet.
#[derive(Debug, PartialEq, Eq)]
enum Open {
    /// More of it comes.
    Cut(ProgramName, Stream),
    /// It has none: its program ended. Another line must not be taken for its rest, and a file ends as it did.
    Ended,
}

/// Who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A terminal, on which bytes could act.
    Terminal(Colour),
    /// A file, a pipe: bytes as they are.
    Raw,
}

impl Sink {
    /// For standard output or standard error.
    pub fn new<W: Write + IsTerminal + 'static>(out: Box<W>) -> Self {
        let kind = if out.is_terminal() { Kind::Terminal(Colour::wanted()) } else { Kind::Raw };
        Self { out, kind, open: None }
    }

    /// Ends the line that is open.
    fn close(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some(_) => self.out.write_all(b"\n"),
            None => Ok(()),
        }
    }

    fn text(&self, bytes: &[u8]) -> Vec<u8> {
        match self.kind {
            Kind::Terminal(_) => escaped_bytes(bytes).into_bytes(),
            Kind::Raw => bytes.to_vec(),
        }
    }

    fn faint(&self, text: String) -> String {
        match self.kind {
            Kind::Terminal(Colour::Yes) => format!("\x1b[2m{text}\x1b[0m"),
            _ => text,
        }
    }
}

impl Printer {
    /// For programs of these names. Of a single one, lines do not say whose they are.
    pub fn new(sinks: [Sink; 2], programs: Vec<ProgramName>, clock: Clock) -> Self {
        let widest = programs.iter().map(|name| name.to_string().width()).max();
        Self { sinks, label: widest.filter(|_| programs.len() > 1), clock }
    }

    /// Writes lines.
    pub fn print(&mut self, piece: &LogPiece) -> io::Result<()> {
        if piece.lines_dropped > 0 {
            self.say_dropped(piece)?;
        }
        for line in &piece.lines {
            self.line(&piece.program, line)?;
        }
        self.sinks.iter_mut().try_for_each(|sink| sink.out.flush())
    }

    /// Nothing follows: what a person reads ends with its line.
    pub fn finish(&mut self) -> io::Result<()> {
        for sink in self.sinks.iter_mut().filter(|sink| sink.kind != Kind::Raw) {
            sink.close()?;
            sink.out.flush()?;
        }
        Ok(())
    }

    fn say_dropped(&mut self, piece: &LogPiece) -> io::Result<()> {
        let sink = self.turn_to(Stream::Event)?;
        sink.close()?;
        let (count, program) = (piece.lines_dropped, escaped(&piece.program.to_string()));
        let words = sink.faint(format!("… {count} lines of {program} are gone"));
        writeln!(sink.out, "{words}")
    }

    fn line(&mut self, program: &ProgramName, line: &Line) -> io::Result<()> {
        let mut prefix = self.clock.prefix(line.at_ns);
        if let Some(width) = self.label {
            let name = escaped(&program.to_string());
            prefix += &format!("{name}{} | ", " ".repeat(width.saturating_sub(name.width())));
        }
        let sink = self.turn_to(line.stream)?;
        if !matches!(&sink.open, Some(Open::Cut(name, stream)) if (name, *stream) == (program, line.stream)) {
            sink.close()?;
            let prefix = sink.faint(prefix);
            sink.out.write_all(prefix.as_bytes())?;
        }
        match line.stream {
            // What the system says about a program is told from what the program says.
            Stream::Event => {
                let words = sink.faint(format!("— {}", escaped(&String::from_utf8_lossy(&line.bytes))));
                sink.out.write_all(words.as_bytes())?;
            }
            Stream::Output | Stream::Error => {
                let text = sink.text(&line.bytes);
                sink.out.write_all(&text)?;
            }
        }
        sink.open = match line.end {
            LineEnd::Newline => {
                sink.out.write_all(b"\n")?;
                None
            }
            LineEnd::Cut => Some(Open::Cut(program.clone(), line.stream)),
            LineEnd::End => Some(Open::Ended),
        };
        Ok(())
    }

    /// The sink of a stream. At a terminal, both are on one screen: the other one's line ends first.
    fn turn_to(&mut self, stream: Stream) -> io::Result<&mut Sink> {
        let [output, error] = &mut self.sinks;
        let (sink, other) = if stream == Stream::Output { (output, error) } else { (error, output) };
        if sink.kind != Kind::Raw && other.kind != Kind::Raw {
            other.close()?;
            other.out.flush()?;
        }
        Ok(sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Memory(Rc<RefCell<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.borrow()).into_owned()
        }
    }

    fn name(program: &str) -> ProgramName {
        ProgramName { domain: "d".to_owned(), program: program.to_owned() }
    }

    fn piece(program: &str, stream: Stream, lines: &[(&str, LineEnd)]) -> LogPiece {
        let line = |(text, end): &(&str, LineEnd)| Line {
            at_ns: 1_500_000_000,
            stream,
            bytes: text.as_bytes().to_vec(),
            end: *end,
        };
        LogPiece { program: name(program), lines_dropped: 0, lines: lines.iter().map(line).collect() }
    }

    /// What comes out of both streams, on their own or on one terminal.
    fn printed(kind: Kind, programs: &[&str], clock: Clock, pieces: &[LogPiece]) -> (String, String) {
        let output = Memory::default();
        let error = if kind == Kind::Raw { Memory::default() } else { output.clone() };
        let sinks = [&output, &error].map(|memory| Sink { out: Box::new(memory.clone()), kind, open: None });
        let mut printer = Printer::new(sinks, programs.iter().copied().map(name).collect(), clock);
        pieces.iter().for_each(|piece| printer.print(piece).unwrap());
        printer.finish().unwrap();
        (output.text(), error.text())
    }

    use LineEnd::{Cut, End, Newline};
    const TERMINAL: Kind = Kind::Terminal(Colour::No);

    #[test]
    fn a_file_gets_the_bytes_that_were_written() {
        let pieces = [
            piece(
                "a",
                Stream::Output,
                &[("one\x1b[31m", Newline), ("tw", Cut), ("o", Newline), ("rest", End)],
            ),
            piece("a", Stream::Error, &[("bad", Newline)]),
            piece("a", Stream::Event, &[("ended", Newline)]),
        ];
        let (output, error) = printed(Kind::Raw, &["a"], Clock::None, &pieces);
        assert_eq!(output, "one\x1b[31m\ntwo\nrest");
        assert_eq!(error, "bad\n— ended\n");
        let again = [&pieces[..], &[piece("a", Stream::Output, &[("anew", Newline)])]].concat();
        assert_eq!(printed(Kind::Raw, &["a"], Clock::None, &again).0, "one\x1b[31m\ntwo\nrest\nanew\n");
    }

    #[test]
    fn a_terminal_gets_whole_lines_on_which_nothing_acts() {
        let pieces = [
            piece("a", Stream::Output, &[("one\x1b[2J", Newline), ("begun", Cut)]),
            piece("a", Stream::Error, &[("bad", Newline)]),
            piece("a", Stream::Output, &[("rest", End)]),
        ];
        assert_eq!(
            printed(TERMINAL, &["a"], Clock::None, &pieces).0,
            "one\\u{1b}[2J\nbegun\nbad\nrest\n",
            "standard error's line is not on that of standard output"
        );
    }

    #[test]
    fn lines_of_several_programs_say_whose_they_are() {
        let pieces = [
            piece("a", Stream::Output, &[("one", Newline), ("cut ", Cut)]),
            piece("a", Stream::Output, &[("in two", Newline), ("cut", Cut)]),
            piece("long", Stream::Output, &[("x", Newline)]),
        ];
        let (output, _) = printed(Kind::Raw, &["a", "long"], Clock::None, &pieces);
        assert_eq!(output, "d/a    | one\nd/a    | cut in two\nd/a    | cut\nd/long | x\n");
    }

    #[test]
    fn times_and_gaps_are_told() {
        let mut late = piece("a", Stream::Output, &[("x", Newline)]);
        late.lines_dropped = 7;
        let (output, error) =
            printed(Kind::Raw, &["a"], Clock::since(Some(1_000_000_000_000_000_000)), &[late.clone()]);
        assert_eq!(output, "2001-09-09T01:46:41.500Z x\n");
        assert_eq!(error, "… 7 lines of d/a are gone\n");
        assert_eq!(printed(Kind::Raw, &["a"], Clock::since(None), &[late]).0, "1.500s x\n");
    }
}
