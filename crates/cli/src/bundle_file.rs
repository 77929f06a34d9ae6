//! Writes a bundle to a file that has no name, so that it is gone when its last user is.

use abi::{PAGE_SIZE, Span};
use bundle::{Kind, Layout, Plan};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

/// A bundle that is being written. The plan comes last, because it holds the checksums of the files.
#[derive(Debug)]
pub struct BundleWriter {
    pages: PageWriter,
    items: Vec<(Kind, Span)>,
}

/// A bundle that has been written.
#[derive(Debug)]
pub struct BundleFile {
    /// From its beginning.
    pub file: File,
    /// In bytes.
    pub length: u64,
}

/// A file in which each thing begins at a page. The first page is left for a header.
#[derive(Debug)]
pub struct PageWriter {
    file: File,
    /// Where the next begins.
    end: u64,
}

impl BundleWriter {
    /// Begins one in `$TMPDIR`.
    pub fn new() -> io::Result<Self> {
        Ok(Self { pages: PageWriter::new()?, items: Vec::new() })
    }

    /// Adds a file as it is.
    pub fn add_file(&mut self, kind: Kind, from: &File) -> io::Result<()> {
        self.items.push((kind, self.pages.add_file(from)?));
        Ok(())
    }

    /// Adds what `fill` writes.
    pub fn add_with<T, E>(
        &mut self,
        kind: Kind,
        wrap: impl Fn(io::Error) -> E,
        fill: impl FnOnce(&mut dyn Write) -> Result<T, E>,
    ) -> Result<T, E> {
        let (filled, span) = self.pages.add_with(wrap, fill)?;
        self.items.push((kind, span));
        Ok(filled)
    }

    /// Adds the plan and writes the table.
    pub fn finish(mut self, plan: &Plan) -> io::Result<BundleFile> {
        self.items.push((Kind::Plan, self.pages.add(&Layout::encode_plan(plan))?));
        self.pages.finish(&self.items)
    }
}

impl PageWriter {
    /// Begins one in `$TMPDIR`.
    pub fn new() -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, end: PAGE_SIZE })
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<Span> {
        self.add_with(|error| error, |to| to.write_all(bytes)).map(|((), span)| span)
    }

    /// Adds a file as it is. Between files, `io::copy` leaves the copying to Linux.
    pub fn add_file(&mut self, mut from: &File) -> io::Result<Span> {
        from.rewind()?;
        self.file.seek(SeekFrom::Start(self.end))?;
        let length = io::copy(&mut from, &mut self.file)?;
        Ok(self.close(length))
    }

    /// Adds what `fill` writes.
    pub fn add_with<T, E>(
        &mut self,
        wrap: impl Fn(io::Error) -> E,
        fill: impl FnOnce(&mut dyn Write) -> Result<T, E>,
    ) -> Result<(T, Span), E> {
        self.file.seek(SeekFrom::Start(self.end)).map_err(&wrap)?;
        let mut writer = BufWriter::with_capacity(1 << 20, &self.file);
        let filled = fill(&mut writer)?;
        writer.flush().map_err(&wrap)?;
        drop(writer);
        let length = self.file.stream_position().map_err(&wrap)? - self.end;
        Ok((filled, self.close(length)))
    }

    /// Writes the header.
    pub fn finish(mut self, items: &[(Kind, Span)]) -> io::Result<BundleFile> {
        self.file.rewind()?;
        self.file.write_all(&Layout::header(items, self.end))?;
        self.file.set_len(self.end)?;
        self.file.rewind()?;
        Ok(BundleFile { file: self.file, length: self.end })
    }

    fn close(&mut self, length: u64) -> Span {
        let span = Span::new(self.end, length);
        self.end += length.next_multiple_of(PAGE_SIZE);
        span
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::{Bundle, Console, ProgramPlan, Terminal, Terminals};
    use std::io::Read;

    #[test]
    fn what_is_written_is_a_bundle() {
        let program_plan = ProgramPlan {
            name: String::from("p"),
            artifact: 0,
            arguments: Vec::new(),
            environment: Vec::new(),
            memory_bytes_max: 1,
            ..ProgramPlan::default()
        };
        let plan = Plan::of_one(program_plan, Console::Framed(Terminals::all(Terminal::No)), None);
        let mut program = tempfile::tempfile().unwrap();
        program.write_all(&[7; 5000]).unwrap();
        let mut writer = BundleWriter::new().unwrap();
        writer.add_file(Kind::Program, &program).unwrap();
        writer.add_with(Kind::Files, |error| error, |files| files.write_all(b"files")).unwrap();
        writer.add_file(Kind::TrapHelper, &tempfile::tempfile().unwrap()).unwrap();
        let BundleFile { mut file, length } = writer.finish(&plan).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, length);
        let bundle = Bundle::parse(&bytes).unwrap();
        assert_eq!((bundle.plan, bundle.files), (plan, &b"files"[..]));
        assert_eq!(bundle.artifacts, [&[7; 5000][..]]);
        assert!(bundle.trap_helper.is_empty());
    }
}
