use super::message::{Request, entries};
use super::{Exchange, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Transport};
use crate::provider::{
    Appended, Clock, ClockKind, Entropy, Files, Follow, Handle, Host, Input, Open, Opened, Output,
    OutputStream, Path, Stat, Stream, StreamSet, Streams, Sync, Terminal, Times, Visit, Wait,
};
use crate::{Errno, Error, Result, Stopped};
use serde::de::DeserializeOwned;

/// Providers at the other side of a [`Transport`].
#[derive(Clone, Copy, Debug)]
pub struct Remote<T> {
    pub(super) transport: T,
}

impl<T: Transport> Remote<T> {
    /// The host at the other side of `transport`.
    pub const fn new(transport: T) -> Self {
        Self { transport }
    }

    fn ask<A: DeserializeOwned>(
        &mut self,
        request: Request,
        outgoing: [&[u8]; 2],
        incoming: &mut [u8],
    ) -> Result<A> {
        let mut request_bytes = [0; REQUEST_BYTES_MAX];
        let request = postcard::to_slice(&request, &mut request_bytes).map_err(|_| Errno::Io)?;
        let mut reply = [0; REPLY_BYTES_MAX];
        let exchange = Exchange { request, outgoing, reply: &mut reply, incoming };
        let length = self.transport.call(exchange)?;
        let reply = reply.get(..length).ok_or(Errno::Io)?;
        postcard::from_bytes::<Result<A>>(reply).map_err(|_| Errno::Io)?
    }

    fn tell<A: DeserializeOwned>(&mut self, request: Request) -> Result<A> {
        self.ask(request, [&[], &[]], &mut [])
    }

    fn tell_about<A: DeserializeOwned>(&mut self, request: Request, path: Path<'_>) -> Result<A> {
        self.ask(request, [path.as_str().as_bytes(), &[]], &mut [])
    }

    fn tell_about_two(&mut self, request: Request, first: &str, second: &str) -> Result<()> {
        self.ask(request, [first.as_bytes(), second.as_bytes()], &mut [])
    }
}

/// Of a call that can only fail because the process is being ended; a broken transport ends it as well.
fn only_stopped<A>(result: Result<A>) -> Result<A, Stopped> {
    result.map_err(|_| Stopped)
}

/// A count that the other side answered, no larger than the buffer it is about.
fn within(count: usize, buffer: &[u8]) -> Result<usize> {
    if count <= buffer.len() { Ok(count) } else { Err(Error::Errno(Errno::Io)) }
}

impl<T: Transport> Host for Remote<T> {
    fn clock(&mut self) -> &mut dyn Clock {
        self
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        self
    }

    fn streams(&mut self) -> &mut dyn Streams {
        self
    }

    fn files(&mut self) -> &mut dyn Files {
        self
    }

    fn wait(&mut self) -> &mut dyn Wait {
        self
    }
}

impl<T: Transport> Clock for Remote<T> {
    fn monotonic_ns(&mut self) -> Result<u64> {
        self.tell(Request::MonotonicNs)
    }

    fn wall_ns(&mut self) -> Result<u64> {
        self.tell(Request::WallNs)
    }

    fn cpu_ns(&mut self) -> Result<u64> {
        self.tell(Request::CpuNs)
    }

    fn resolution_ns(&mut self, which: ClockKind) -> Result<u64> {
        self.tell(Request::ResolutionNs(which))
    }
}

impl<T: Transport> Entropy for Remote<T> {
    fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        self.ask(Request::FillEntropy, [&[], &[]], into)
    }
}

impl<T: Transport> Streams for Remote<T> {
    fn read(&mut self, into: &mut [u8]) -> Result<Input> {
        let input = self.ask(Request::ReadStream, [&[], &[]], into)?;
        if let Input::Bytes(count) = input {
            within(count, into)?;
        }
        Ok(input)
    }

    fn write(&mut self, to: OutputStream, bytes: &[u8]) -> Result<Output> {
        let output = self.ask(Request::WriteStream(to), [bytes, &[]], &mut [])?;
        if let Output::Bytes(count) = output {
            within(count, bytes)?;
        }
        Ok(output)
    }

    fn terminal(&mut self, stream: Stream) -> Result<Terminal> {
        self.tell(Request::Terminal(stream))
    }
}

impl<T: Transport> Wait for Remote<T> {
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        only_stopped(self.tell(Request::Wait { streams, deadline_ns }))
    }

    fn checkpoint(&mut self) -> Result<(), Stopped> {
        only_stopped(self.tell(Request::Checkpoint))
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        only_stopped(self.tell(Request::GiveWay))
    }
}

impl<T: Transport> Files for Remote<T> {
    fn open_grant(&mut self, grant: u32) -> Result<Handle> {
        self.tell(Request::OpenGrant(grant))
    }

    fn open_at(&mut self, directory: Handle, path: Path<'_>, open: Open) -> Result<Opened> {
        self.tell_about(Request::OpenAt { directory, open }, path)
    }

    fn close(&mut self, handle: Handle) -> Result<()> {
        self.tell(Request::Close(handle))
    }

    fn read_at(&mut self, file: Handle, offset: u64, into: &mut [u8]) -> Result<usize> {
        let count = self.ask(Request::ReadAt { file, offset }, [&[], &[]], into)?;
        within(count, into)
    }

    fn write_at(&mut self, file: Handle, offset: u64, bytes: &[u8]) -> Result<usize> {
        let count = self.ask(Request::WriteAt { file, offset }, [bytes, &[]], &mut [])?;
        within(count, bytes)
    }

    fn append(&mut self, file: Handle, bytes: &[u8]) -> Result<Appended> {
        let appended: Appended = self.ask(Request::Append(file), [bytes, &[]], &mut [])?;
        within(appended.count, bytes)?;
        Ok(appended)
    }

    fn set_size(&mut self, file: Handle, size: u64) -> Result<()> {
        self.tell(Request::SetSize { file, size })
    }

    fn allocate(&mut self, file: Handle, offset: u64, length: u64) -> Result<()> {
        self.tell(Request::Allocate { file, offset, length })
    }

    fn sync(&mut self, handle: Handle, what: Sync) -> Result<()> {
        self.tell(Request::Sync { handle, what })
    }

    fn stat(&mut self, handle: Handle) -> Result<Stat> {
        self.tell(Request::Stat(handle))
    }

    fn stat_at(&mut self, directory: Handle, path: Path<'_>, follow: Follow) -> Result<Stat> {
        self.tell_about(Request::StatAt { directory, follow }, path)
    }

    fn set_times(&mut self, handle: Handle, times: Times) -> Result<()> {
        self.tell(Request::SetTimes { handle, times })
    }

    fn set_times_at(
        &mut self,
        directory: Handle,
        path: Path<'_>,
        follow: Follow,
        times: Times,
    ) -> Result<()> {
        self.tell_about(Request::SetTimesAt { directory, follow, times }, path)
    }

    fn read_directory(&mut self, directory: Handle, cookie: u64, visit: Visit<'_>) -> Result<()> {
        let mut page = [0; entries::PAGE_BYTES];
        let request = Request::ReadDirectory { directory, cookie };
        let length: usize = self.ask(request, [&[], &[]], &mut page)?;
        let mut rest = page.get(..length).ok_or(Errno::Io)?;
        while !rest.is_empty() {
            let (entry, after) = entries::decode(rest).ok_or(Errno::Io)?;
            rest = after;
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn create_directory_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        self.tell_about(Request::CreateDirectoryAt(directory), path)
    }

    fn remove_directory_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        self.tell_about(Request::RemoveDirectoryAt(directory), path)
    }

    fn unlink_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        self.tell_about(Request::UnlinkAt(directory), path)
    }

    fn rename_at(
        &mut self,
        directory: Handle,
        from: Path<'_>,
        to_directory: Handle,
        to: Path<'_>,
    ) -> Result<()> {
        let request = Request::RenameAt { from: directory, to: to_directory };
        self.tell_about_two(request, from.as_str(), to.as_str())
    }

    fn link_at(
        &mut self,
        directory: Handle,
        from: Path<'_>,
        to_directory: Handle,
        to: Path<'_>,
    ) -> Result<()> {
        let request = Request::LinkAt { from: directory, to: to_directory };
        self.tell_about_two(request, from.as_str(), to.as_str())
    }

    fn symlink_at(&mut self, text: &str, directory: Handle, path: Path<'_>) -> Result<()> {
        self.tell_about_two(Request::SymlinkAt(directory), text, path.as_str())
    }

    fn read_link_at(&mut self, directory: Handle, path: Path<'_>, into: &mut [u8]) -> Result<usize> {
        let count = self.ask(Request::ReadLinkAt(directory), [path.as_str().as_bytes(), &[]], into)?;
        within(count, into)
    }
}
