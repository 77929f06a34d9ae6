//! What a parent gives the process of a domain: one message on the child's standard input, a socket. Its descriptors are,
//! in this order, the description (a file in memory), the null device, the library OS, the trap helper, its end of the wire,
//! the programs, the granted directories, and the door of its control group if there is one.

use super::{Confinement, Domain, Quotas};
use crate::files::Grant;
use crate::launch::Runtime;
use bundle::{Access, Plan};
use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// The message itself says nothing: what matters are its descriptors.
const GREETING: [u8; 8] = *b"SELKDOMN";
/// The most descriptors in a message (unix(7), SCM_MAX_FD).
const DESCRIPTORS_MAX: usize = 253;

/// What the child is told in words.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    /// The process that starts it.
    parent: u32,
    runtime: PathBuf,
    plan: Plan,
    artifacts: usize,
    access: Vec<Access>,
    quotas: Quotas,
    confinement: Confinement,
}

/// What the child has in hand.
#[derive(Debug)]
pub struct Handover {
    pub parent: u32,
    pub null: OwnedFd,
    pub domain: Domain,
    /// The way to the parent.
    pub wire: OwnedFd,
    /// What has to be written to, to be in the domain's control group.
    pub door: Option<File>,
}

/// What a parent has when all lies ready.
#[derive(Debug)]
pub struct Given {
    /// The child's end of the socket on which it lies. Nobody has the other end any more.
    pub socket: OwnedFd,
    /// The way to the child.
    pub wire: UnixStream,
}

/// Makes everything ready for a child.
pub fn give(domain: &Domain, door: Option<&File>) -> io::Result<Given> {
    let description = Description {
        parent: std::process::id(),
        runtime: domain.runtime.path.clone(),
        plan: domain.plan.clone(),
        artifacts: domain.artifacts.len(),
        access: domain.grants.iter().map(|grant| grant.access).collect(),
        quotas: domain.quotas.clone(),
        confinement: domain.confinement,
    };
    let description = postcard::to_allocvec(&description).map_err(io::Error::other)?;
    let words = File::from(rustix::fs::memfd_create("selkis-domain", MemfdFlags::CLOEXEC)?);
    words.write_all_at(&description, 0)?;
    let null = File::open("/dev/null")?;
    let (wire, childs_wire) = UnixStream::pair()?;
    let childs_wire = File::from(OwnedFd::from(childs_wire));
    let files = [&words, &null, &domain.runtime.file, &domain.trap_helper, &childs_wire];
    let directories = domain.grants.iter().map(|grant| &grant.directory);
    let all = files.into_iter().chain(&domain.artifacts).chain(directories).chain(door);
    let descriptors: Vec<BorrowedFd<'_>> = all.map(AsFd::as_fd).collect();
    if descriptors.len() >= DESCRIPTORS_MAX {
        let most = DESCRIPTORS_MAX - files.len() - 1;
        let why = format!("a domain can be given {most} programs and directories at most");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let (ours, childs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for the most");
    sendmsg(&ours, &[IoSlice::new(&GREETING)], &mut control, SendFlags::empty())?;
    Ok(Given { socket: childs, wire })
}

/// Takes what [`give`] sent; `None` if this is no such socket or no such message.
pub fn take(socket: BorrowedFd<'_>) -> Option<Handover> {
    let mut greeting = [0; GREETING.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut greeting)];
    let message = recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    if message.bytes != GREETING.len() || greeting != GREETING {
        return None;
    }
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut descriptors = descriptors.next()?.map(File::from);
    let mut next = || descriptors.next();
    let description = read_description(&next()?)?;
    let null = next()?.into();
    let runtime = Runtime { path: description.runtime, file: next()? };
    let (trap_helper, wire) = (next()?, next()?.into());
    let artifacts = (0..description.artifacts).map(|_| next()).collect::<Option<_>>()?;
    let grants = description.access.iter().map(|access| Some(Grant { directory: next()?, access: *access }));
    let grants = grants.collect::<Option<_>>()?;
    let domain = Domain {
        runtime,
        plan: description.plan,
        artifacts,
        trap_helper,
        grants,
        quotas: description.quotas,
        confinement: description.confinement,
    };
    Some(Handover { parent: description.parent, null, domain, wire, door: next() })
}

fn read_description(mut file: &File) -> Option<Description> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    postcard::from_bytes(&bytes).ok()
}
