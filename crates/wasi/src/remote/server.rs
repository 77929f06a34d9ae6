use super::Exchange;
use super::message::{Request, entries};
use crate::provider::{Files, Handle, Host, Path};
use crate::{Errno, Error, Result};
use core::ops::ControlFlow;
use serde::Serialize;

/// Does what one exchange asks of `host`, and answers how many bytes of the reply were filled. Nothing in the
/// exchange is believed: a request without meaning is answered with `EINVAL`.
pub fn serve(host: &mut dyn Host, exchange: Exchange<'_>) -> usize {
    let Exchange { request, outgoing, reply, incoming } = exchange;
    let mut reply = Reply { into: reply, length: 0 };
    match postcard::from_bytes(request) {
        Ok(request) => answer(host, request, outgoing, incoming, &mut reply),
        Err(_) => reply.put::<()>(Err(Errno::Inval.into())),
    }
    reply.length
}

/// The encoded answer.
struct Reply<'a> {
    into: &'a mut [u8],
    length: usize,
}

impl Reply<'_> {
    /// Encodes the result. A buffer that is too short gets nothing, which no asker takes for an answer.
    fn put<A: Serialize>(&mut self, result: Result<A>) {
        self.length = postcard::to_slice(&result, self.into).map_or(0, |bytes| bytes.len());
    }
}

fn answer(
    host: &mut dyn Host,
    request: Request,
    outgoing: [&[u8]; 2],
    incoming: &mut [u8],
    reply: &mut Reply<'_>,
) {
    match request {
        Request::MonotonicNs => reply.put(host.clock().monotonic_ns()),
        Request::WallNs => reply.put(host.clock().wall_ns()),
        Request::CpuNs => reply.put(host.clock().cpu_ns()),
        Request::ResolutionNs(which) => reply.put(host.clock().resolution_ns(which)),
        Request::FillEntropy => reply.put(host.entropy().fill(incoming)),
        Request::ReadStream => reply.put(host.streams().read(incoming)),
        Request::WriteStream(to) => reply.put(host.streams().write(to, outgoing[0])),
        Request::Terminal(stream) => reply.put(host.streams().terminal(stream)),
        Request::Wait { streams, deadline_ns } => {
            reply.put(host.wait().wait(streams, deadline_ns).map_err(Error::from));
        }
        Request::Checkpoint => reply.put(host.wait().checkpoint().map_err(Error::from)),
        Request::GiveWay => reply.put(host.wait().give_way().map_err(Error::from)),
        _ => answer_about_files(host.files(), request, outgoing, incoming, reply),
    }
}

fn answer_about_files(
    files: &mut dyn Files,
    request: Request,
    [first, second]: [&[u8]; 2],
    incoming: &mut [u8],
    reply: &mut Reply<'_>,
) {
    match request {
        Request::OpenGrant(grant) => reply.put(files.open_grant(grant)),
        Request::Close(handle) => reply.put(files.close(handle)),
        Request::ReadAt { file, offset } => reply.put(files.read_at(file, offset, incoming)),
        Request::WriteAt { file, offset } => reply.put(files.write_at(file, offset, first)),
        Request::Append(file) => reply.put(files.append(file, first)),
        Request::SetSize { file, size } => reply.put(files.set_size(file, size)),
        Request::Allocate { file, offset, length } => reply.put(files.allocate(file, offset, length)),
        Request::Sync { handle, what } => reply.put(files.sync(handle, what)),
        Request::Stat(handle) => reply.put(files.stat(handle)),
        Request::SetTimes { handle, times } => reply.put(files.set_times(handle, times)),
        Request::ReadDirectory { directory, cookie } => {
            reply.put(read_directory(files, directory, cookie, incoming));
        }
        Request::OpenAt { directory, open } => {
            reply.put(path(first).and_then(|path| files.open_at(directory, path, open)));
        }
        Request::StatAt { directory, follow } => {
            reply.put(path(first).and_then(|path| files.stat_at(directory, path, follow)));
        }
        Request::ReadLinkAt(directory) => {
            reply.put(path(first).and_then(|path| files.read_link_at(directory, path, incoming)));
        }
        _ => reply.put(change_names(files, request, first, second)),
    }
}

/// The requests that answer nothing but success.
fn change_names(files: &mut dyn Files, request: Request, first: &[u8], second: &[u8]) -> Result<()> {
    match request {
        Request::SetTimesAt { directory, follow, times } => {
            files.set_times_at(directory, path(first)?, follow, times)
        }
        Request::CreateDirectoryAt(directory) => files.create_directory_at(directory, path(first)?),
        Request::RemoveDirectoryAt(directory) => files.remove_directory_at(directory, path(first)?),
        Request::UnlinkAt(directory) => files.unlink_at(directory, path(first)?),
        Request::RenameAt { from, to } => files.rename_at(from, path(first)?, to, path(second)?),
        Request::LinkAt { from, to } => files.link_at(from, path(first)?, to, path(second)?),
        Request::SymlinkAt(directory) => {
            let text = core::str::from_utf8(first).map_err(|_| Errno::Ilseq)?;
            files.symlink_at(text, directory, path(second)?)
        }
        _ => Err(Errno::Nosys.into()),
    }
}

fn path(bytes: &[u8]) -> Result<Path<'_>> {
    Ok(Path::new(bytes)?)
}

fn read_directory(files: &mut dyn Files, directory: Handle, cookie: u64, into: &mut [u8]) -> Result<usize> {
    let mut used = 0;
    files.read_directory(
        directory,
        cookie,
        &mut |entry| match entries::encode(entry, &mut into[used..]) {
            Some(length) => {
                used += length;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        },
    )?;
    Ok(used)
}
