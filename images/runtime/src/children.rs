//! What processes know of the processes that they have started, and what they want of them. A process is begun by the first virtual CPU, as all
//! are: whoever wants one leaves word here ([`Request`]), and waits. Everything else is done at once, by whoever wants it.

use crate::waiting::not_stopped;
use abi::Request as Kernel;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bundle::ProgramPlan;
use link::{Cause, Process};
use runtime::{ProcessId, Stop, System, current, process};
use spin::Mutex;
use wasi::provider::{
    Child, ChildCause, ChildEnd, ChildLimits, ChildState, Children, Clock, Entropy, Files, Host, Spawn,
    Streams, Strings, Wait,
};
use wasi::{Errno, Result};

/// All families. Whoever has it does not suspend itself, and takes no other lock but that of the processes; no upcall looks at it.
static FAMILIES: Mutex<Families> = Mutex::new(Families {
    parents: BTreeMap::new(),
    requests: VecDeque::new(),
    count: 0,
    count_max: 0,
    last_key: Key(0),
});

/// Does something with the families. What they hold is bounded by the domain's processes, and for all.
pub fn with<T>(operation: impl FnOnce(&mut Families) -> T) -> T {
    current::uncharged(|| operation(&mut FAMILIES.lock()))
}

/// A process that may start others. Never the same again, as the numbers of processes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64);

/// A child, by its parent and by what that calls it.
pub type Name = (Key, Child);

/// A process that is to be started.
pub struct Request {
    /// For whom.
    pub parent: Key,
    /// Which program of the plan.
    pub program: u32,
    /// `argv` and `environ`: strings, each with a NUL after it.
    pub arguments: Vec<u8>,
    pub environment: Vec<u8>,
    /// Which of its parent's directories, by their places.
    pub directories: Vec<usize>,
    /// Which of the programs that its parent may start.
    pub start: Vec<usize>,
    pub limits: ChildLimits,
}

pub struct Families {
    parents: BTreeMap<Key, Parent>,
    /// One at most for each parent.
    requests: VecDeque<Request>,
    /// How many children there are, those among them that have ended and were not waited for; and how many there may be.
    count: u32,
    count_max: u32,
    last_key: Key,
}

/// A process that may start others, and lives.
struct Parent {
    /// What it was begun with: its grants.
    plan: Arc<ProgramPlan>,
    /// What the root knows it as.
    process: Process,
    /// Whom to wake; not known while it is being begun.
    id: Option<ProcessId>,
    children: BTreeMap<Child, Life>,
    /// Those of them that have ended.
    ended: BTreeSet<Child>,
    last_child: Child,
    /// To its request, which it gets back: the memory of that is its own.
    answer: Option<(Result<Child, Errno>, Request)>,
    course: Course,
}

/// A child.
enum Life {
    /// With its own family, if it may start others.
    Lives(ProcessId, Option<Key>),
    Ended(ChildEnd),
}

/// What is to come of a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// It may start others.
    Open,
    /// It is to end, and those that it has started are yet to be told so.
    Doomed,
    /// Nobody is left to be told, and nobody comes.
    Closed,
}

impl Families {
    /// How many children there may be.
    pub fn limit(&mut self, count_max: u32) {
        self.count_max = count_max;
    }

    /// A process is about to begin that may start others.
    pub fn add(&mut self, process: Process, plan: Arc<ProgramPlan>) -> Key {
        self.last_key = Key(self.last_key.0 + 1);
        let parent = Parent {
            plan,
            process,
            id: None,
            children: BTreeMap::new(),
            ended: BTreeSet::new(),
            last_child: Child(0),
            answer: None,
            course: Course::Open,
        };
        self.parents.insert(self.last_key, parent);
        self.last_key
    }

    /// It has begun.
    pub fn begun(&mut self, key: Key, id: ProcessId) {
        if let Some(parent) = self.parents.get_mut(&key) {
            parent.id = Some(id);
        }
    }

    /// It has ended, or did not begin. Its children that live are nobody's now, and end too.
    pub fn remove(&mut self, system: &System, key: Key) {
        self.close(system, key);
        if let Some(parent) = self.parents.remove(&key) {
            self.count -= parent.ended.len() as u32;
            self.requests.retain(|request| request.parent != key);
        }
    }

    /// A parent is to end: it starts nobody any more, and all that it has started end, those that they have started, and so on.
    pub fn close(&mut self, system: &System, key: Key) {
        match self.parents.get_mut(&key) {
            Some(parent) if parent.course == Course::Open => parent.course = Course::Doomed,
            _ => return,
        }
        // Whoever was started comes after who has started it. Nothing is allocated, for there may be no memory.
        let mut next = Some(key);
        while let Some(key) = next {
            let Some(parent) = self.parents.get_mut(&key) else { return };
            parent.course = Course::Closed;
            let children = core::mem::take(&mut parent.children);
            for life in children.values() {
                let Life::Lives(id, family) = life else { continue };
                system.processes().lock().stop(system, *id, Stop::Cancelled);
                if let Some(child) = family.and_then(|family| self.parents.get_mut(&family))
                    && child.course == Course::Open
                {
                    child.course = Course::Doomed;
                }
            }
            if let Some(parent) = self.parents.get_mut(&key) {
                parent.children = children;
            }
            let mut after = self.parents.range(key..);
            next = after.find(|(_, parent)| parent.course == Course::Doomed).map(|(key, _)| *key);
        }
    }

    /// Has a process started; gives the request back if there is no memory for it.
    fn ask(&mut self, request: Request) -> Option<Request> {
        if self.requests.try_reserve(1).is_err() {
            return Some(request);
        }
        self.requests.push_back(request);
        None
    }

    /// How many processes are to be started.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// The next process that is to be started.
    pub fn next_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// The process that a parent is.
    pub fn id(&self, key: Key) -> Option<ProcessId> {
        self.parents.get(&key)?.id
    }

    /// Whether there may be another one.
    pub fn has_room(&self) -> Result<(), Errno> {
        if self.count < self.count_max { Ok(()) } else { Err(Errno::Again) }
    }

    /// What a parent was begun with, and the root's number for it, if it lives and is not to end.
    pub fn parent(&self, key: Key) -> Option<(&Arc<ProgramPlan>, Process)> {
        let parent = self.parents.get(&key).filter(|parent| parent.course == Course::Open)?;
        Some((&parent.plan, parent.process))
    }

    /// A child was started, which may have a family of its own: what its parent calls it.
    pub fn spawned(&mut self, system: &System, key: Key, id: ProcessId, family: Option<Key>) -> Option<Name> {
        let parent = self.parents.get_mut(&key)?;
        let child = Child(parent.last_child.0 + 1);
        parent.last_child = child;
        parent.children.insert(child, Life::Lives(id, family));
        self.count += 1;
        // Meanwhile, on another virtual CPU, that may have been stopped.
        if parent.course != Course::Open {
            self.stop(system, id, family);
        }
        Some((key, child))
    }

    /// Has a process end, with the family that it has.
    pub fn stop(&mut self, system: &System, id: ProcessId, family: Option<Key>) {
        system.processes().lock().stop(system, id, Stop::Cancelled);
        if let Some(family) = family {
            self.close(system, family);
        }
    }

    /// What has come of a request, for who has made it.
    pub fn answer(&mut self, system: &System, request: Request, answer: Result<Child, Errno>) {
        if let Some(parent) = self.parents.get_mut(&request.parent) {
            parent.answer = Some((answer, request));
            parent.wake(system);
        }
    }

    /// A child has ended. If its parent has not, that is told, and until it has heard of it the child counts.
    pub fn ended(&mut self, system: &System, (key, child): Name, end: ChildEnd) {
        let Some(parent) = self.parents.get_mut(&key) else {
            self.count -= 1;
            return;
        };
        parent.children.insert(child, Life::Ended(end));
        parent.ended.insert(child);
        parent.wake(system);
    }

    /// How a child has ended, if it has: told once. `None` stands for any of them.
    fn take_end(&mut self, key: Key, which: Option<Child>) -> Result<Option<(Child, ChildEnd)>, Errno> {
        let parent = self.parents.get_mut(&key).ok_or(Errno::Child)?;
        let child = match which {
            Some(child) if parent.children.contains_key(&child) => child,
            None if !parent.children.is_empty() => match parent.ended.first() {
                Some(child) => *child,
                None => return Ok(None),
            },
            _ => return Err(Errno::Child),
        };
        let Some(Life::Ended(end)) = parent.children.get(&child) else { return Ok(None) };
        let end = *end;
        parent.children.remove(&child);
        parent.ended.remove(&child);
        self.count -= 1;
        Ok(Some((child, end)))
    }

    /// What a parent was begun with, if it may start another one.
    fn grants(&self, key: Key) -> Result<Arc<ProgramPlan>, Errno> {
        let parent = self.parents.get(&key).ok_or(Errno::Notcapable)?;
        if parent.course != Course::Open {
            return Err(Errno::Canceled);
        }
        // Who asks in vain does it in its own time.
        self.has_room()?;
        Ok(Arc::clone(&parent.plan))
    }
}

/// What is to be started, if the parent may start it and has what it passes on.
fn request(key: Key, grants: &ProgramPlan, spawn: &Spawn<'_>) -> Result<Request, Errno> {
    let startable = |name: &[u8]| {
        let place = grants.start.iter().position(|startable| startable.name.as_bytes() == name);
        place.ok_or(Errno::Notcapable)
    };
    let directory = |name: &&str| {
        let place = grants.directories.iter().position(|directory| directory.guest == *name);
        place.ok_or(Errno::Notcapable)
    };
    let place = startable(spawn.program.as_bytes())?;
    Ok(Request {
        parent: key,
        program: grants.start[place].program,
        arguments: copy(spawn.arguments)?,
        environment: copy(spawn.environment)?,
        directories: places(spawn.directories.iter().map(directory))?,
        start: places(spawn.start.iter().map(startable))?,
        limits: spawn.limits,
    })
}

/// Each once; `EINVAL` if one comes again.
fn places(all: impl Iterator<Item = Result<usize, Errno>>) -> Result<Vec<usize>, Errno> {
    let mut places = Vec::new();
    for place in all {
        let place = place?;
        if places.contains(&place) {
            return Err(Errno::Inval);
        }
        places.try_reserve(1).map_err(|_| Errno::Nomem)?;
        places.push(place);
    }
    Ok(places)
}

fn copy(strings: Strings<'_>) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(strings.bytes().len()).map_err(|_| Errno::Nomem)?;
    bytes.extend_from_slice(strings.bytes());
    Ok(bytes)
}

impl Parent {
    /// If it waits, it looks again.
    fn wake(&self, system: &System) {
        if let Some(id) = self.id {
            system.processes().lock().wake(system, id, 0);
        }
    }
}

/// How a process has ended, for its parent.
pub fn end_of(cause: Cause, status: u8) -> ChildEnd {
    let cause = match cause {
        Cause::Exited => ChildCause::Exited,
        Cause::Trapped => ChildCause::Trapped,
        Cause::TimedOut => ChildCause::TimedOut,
        Cause::Cancelled => ChildCause::Killed,
        Cause::OutOfMemory => ChildCause::OutOfMemory,
        Cause::FailedToStart => ChildCause::NotStarted,
    };
    ChildEnd { cause, status }
}

/// A process's own children.
pub struct Family(pub Key);

impl Family {
    /// Suspends the process until something may have changed for it.
    fn sleep(deadline_ns: u64) -> Result<()> {
        let system = System::get().ok_or(Errno::Nosys)?;
        let deadline_ns = deadline_ns.min(current::deadline_ns());
        process::wait(process::Wait { deadline_ns, interest: 0 });
        current::look_at_time(system);
        Ok(not_stopped()?)
    }
}

impl Children for Family {
    fn spawn(&mut self, spawn: Spawn<'_>) -> Result<Child> {
        let system = System::get().ok_or(Errno::Nosys)?;
        let cpu_left_ns = current::cpu_left_ns(system);
        let grants = with(|families| families.grants(self.0))?;
        // The process's own, until it is told no.
        let mut request = request(self.0, &grants, &spawn)?;
        drop(grants);
        request.limits.cpu_ns = least(request.limits.cpu_ns, cpu_left_ns);
        if with(|families| families.ask(request)).is_some() {
            return Err(Errno::Nomem.into());
        }
        system.ask();
        loop {
            let answer = with(|families| families.parents.get_mut(&self.0)?.answer.take());
            if let Some((answer, request)) = answer {
                drop(request);
                return Ok(answer?);
            }
            Self::sleep(Kernel::NEVER)?;
        }
    }

    fn wait(&mut self, which: Option<Child>, deadline_ns: u64) -> Result<(Child, ChildEnd)> {
        let system = System::get().ok_or(Errno::Nosys)?;
        loop {
            if let Some(end) = with(|families| families.take_end(self.0, which))? {
                return Ok(end);
            }
            if deadline_ns == 0 || system.now_ns() >= deadline_ns {
                return Err(Errno::Again.into());
            }
            Self::sleep(deadline_ns)?;
        }
    }

    fn kill(&mut self, child: Child) -> Result<()> {
        let system = System::get().ok_or(Errno::Nosys)?;
        with(|families| {
            let parent = families.parents.get(&self.0).ok_or(Errno::Srch)?;
            if let Life::Lives(id, family) = *parent.children.get(&child).ok_or(Errno::Srch)? {
                families.stop(system, id, family);
            }
            Ok(())
        })
    }

    fn list(&mut self, show: &mut dyn FnMut(Child, ChildState)) -> Result<()> {
        let mut all = Vec::new();
        // The process's own, until it is told no.
        all.try_reserve_exact(with(|families| families.count) as usize).map_err(|_| Errno::Nomem)?;
        with(|families| {
            let children = families.parents.get(&self.0).map(|parent| &parent.children);
            let state = |life: &Life| match life {
                Life::Lives(..) => ChildState::Lives,
                Life::Ended(_) => ChildState::Ended,
            };
            let known = children.into_iter().flatten().map(|(child, life)| (*child, state(life)));
            all.extend(known.take(all.capacity()));
        });
        all.into_iter().for_each(|(child, state)| show(child, state));
        Ok(())
    }
}

/// What a child is begun with: what its parent passes on of its own, and no more of anything than its program may have.
pub fn plan(program: &ProgramPlan, parent: &ProgramPlan, request: &Request) -> ProgramPlan {
    let strings = |bytes: &[u8]| Strings::new(bytes).unwrap_or_default().iter().map(Vec::from).collect();
    let ChildLimits { cpu_ns, timeout_ns, descriptors, .. } = request.limits;
    let directory = |place: &usize| parent.directories.get(*place).cloned();
    let startable = |place: &usize| parent.start.get(*place).cloned();
    ProgramPlan {
        name: program.name.clone(),
        artifact: program.artifact,
        arguments: strings(&request.arguments),
        environment: strings(&request.environment),
        memory_bytes_max: memory_bytes_max(program, request),
        timeout_ns: least(program.timeout_ns, timeout_ns),
        cpu_ns_max: least(program.cpu_ns_max, cpu_ns),
        table_elements_max: program.table_elements_max,
        stack_bytes: program.stack_bytes,
        descriptors_max: program.descriptors_max.min(descriptors.unwrap_or(u32::MAX)),
        log_bytes_per_s: program.log_bytes_per_s,
        directories: request.directories.iter().filter_map(directory).collect(),
        start: request.start.iter().filter_map(startable).collect(),
    }
}

/// How much memory it may have.
pub fn memory_bytes_max(program: &ProgramPlan, request: &Request) -> u64 {
    program.memory_bytes_max.min(request.limits.memory_bytes.unwrap_or(u64::MAX))
}

/// The less of two limits.
fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A host with what a process may know of its children, if it may start any.
pub struct WithChildren<H> {
    /// Everything else.
    pub host: H,
    /// Its children.
    pub family: Option<Family>,
}

impl<H: Host> Host for WithChildren<H> {
    fn clock(&mut self) -> &mut dyn Clock {
        self.host.clock()
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        self.host.entropy()
    }

    fn streams(&mut self) -> &mut dyn Streams {
        self.host.streams()
    }

    fn files(&mut self) -> &mut dyn Files {
        self.host.files()
    }

    fn wait(&mut self) -> &mut dyn Wait {
        self.host.wait()
    }

    fn children(&mut self) -> Option<&mut dyn Children> {
        self.family.as_mut().map(|family| family as &mut dyn Children)
    }
}
