//! Writes a bundle to a file that has no name, so that it is gone when its last user is.

use abi::PAGE_SIZE;
use bundle::{Item, Kind, Layout, Plan};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

/// A bundle that is being written. The plan comes last, because it holds the checksums of the files.
#[derive(Debug)]
pub struct BundleWriter {
    file: File,
    items: Vec<Item>,
    /// Where the next item begins.
    end: u64,
}

/// A bundle that has been written.
#[derive(Debug)]
pub struct BundleFile {
    /// From its beginning.
    pub file: File,
    /// In bytes.
    pub length: u64,
}

impl BundleWriter {
    /// Begins one in `$TMPDIR`.
    pub fn new() -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, items: Vec::new(), end: PAGE_SIZE })
    }

    /// Adds a file as it is. Between files, `io::copy` leaves the copying to Linux.
    pub fn add_file(&mut self, kind: Kind, mut from: &File) -> io::Result<()> {
        from.rewind()?;
        self.file.seek(SeekFrom::Start(self.end))?;
        let length = io::copy(&mut from, &mut self.file)?;
        self.close_item(kind, length);
        Ok(())
    }

    /// Adds what `fill` writes.
    pub fn add_with<T, E>(
        &mut self,
        kind: Kind,
        wrap: impl Fn(io::Error) -> E,
        fill: impl FnOnce(&mut dyn Write) -> Result<T, E>,
    ) -> Result<T, E> {
        self.file.seek(SeekFrom::Start(self.end)).map_err(&wrap)?;
        let mut writer = BufWriter::with_capacity(1 << 20, &self.file);
        let filled = fill(&mut writer)?;
        writer.flush().map_err(&wrap)?;
        drop(writer);
        let length = self.file.stream_position().map_err(&wrap)? - self.end;
        self.close_item(kind, length);
        Ok(filled)
    }

    /// Adds the plan and writes the table.
    pub fn finish(mut self, plan: &Plan) -> io::Result<BundleFile> {
        let plan = Layout::encode_plan(plan);
        let plan_at = self.end;
        self.close_item(Kind::Plan, plan.len() as u64);
        let layout = Layout::new(&self.items);
        assert_eq!(layout.spans.last().map(|span| span.base), Some(plan_at), "laid out as it was written");
        self.file.seek(SeekFrom::Start(plan_at))?;
        self.file.write_all(&plan)?;
        self.file.rewind()?;
        self.file.write_all(&layout.header)?;
        self.file.set_len(layout.length)?;
        self.file.rewind()?;
        Ok(BundleFile { file: self.file, length: layout.length })
    }

    fn close_item(&mut self, kind: Kind, length: u64) {
        self.items.push(Item { kind, length });
        self.end += length.next_multiple_of(PAGE_SIZE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::{Bundle, Console, Terminal, Terminals};
    use std::io::Read;

    #[test]
    fn what_is_written_is_a_bundle() {
        let plan = Plan {
            program: String::from("p"),
            arguments: Vec::new(),
            environment: Vec::new(),
            memory_bytes_max: 1,
            timeout_ns: None,
            console: Console::Framed(Terminals::all(Terminal::No)),
            directories: Vec::new(),
            seed: None,
        };
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
        assert_eq!((bundle.plan, bundle.program, bundle.files), (plan, &[7; 5000][..], &b"files"[..]));
        assert!(bundle.trap_helper.is_empty());
    }
}
