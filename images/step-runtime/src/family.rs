//! The program that is tested, as a parent: it may start itself, by the name `itself`, and what it starts has arguments.

use crate::children::{self, Key, Name};
use crate::subject::Subject;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bundle::{ProgramPlan, Startable};
use link::Process;
use runtime::ProcessId;
use wasi::Errno;
use wasi::provider::{ChildCause, ChildEnd, Strings};

/// The most children at a time.
const CHILDREN_MAX: u32 = 4;

pub struct Family {
    plan: Arc<ProgramPlan>,
    parent: Option<(ProcessId, Key)>,
    children: Vec<(ProcessId, Name)>,
}

impl Family {
    pub fn new(plan: &ProgramPlan) -> Self {
        children::with(|families| families.limit(CHILDREN_MAX));
        let start = Vec::from([Startable { name: String::from("itself"), program: 0 }]);
        let plan = Arc::new(ProgramPlan { start, ..plan.clone() });
        Self { plan, parent: None, children: Vec::new() }
    }

    /// Starts the parent, whose time is over in `time_ns`.
    pub fn begin(&mut self, subject: &Subject, time_ns: u64) -> Result<ProcessId, String> {
        let key = children::with(|families| families.add(Process::FIRST, Arc::clone(&self.plan)));
        let id = subject.start(time_ns, Vec::new(), Some(key))?;
        children::with(|families| families.begun(key, id));
        self.parent = Some((id, key));
        Ok(id)
    }

    /// Starts whom it has asked for.
    pub fn serve(&mut self, subject: &Subject, time_ns: u64) {
        while let Some(request) = children::with(children::Families::next_request) {
            let strings = Strings::new(&request.arguments).unwrap_or_default();
            let arguments = strings.iter().map(Vec::from).collect();
            let name = subject.start(time_ns, arguments, None).ok().and_then(|id| {
                let name =
                    children::with(|families| families.spawned(subject.system, request.parent, id, None))?;
                self.children.push((id, name));
                Some(name)
            });
            let answer = name.map(|(_, child)| child).ok_or(Errno::Nomem);
            children::with(|families| families.answer(subject.system, request, answer));
        }
    }

    /// One has ended; whether it was the parent.
    pub fn ended(&mut self, subject: &Subject, process: ProcessId) -> bool {
        if let Some((_, key)) = self.parent.take_if(|(id, _)| *id == process) {
            children::with(|families| families.remove(subject.system, key));
            return true;
        }
        if let Some(place) = self.children.iter().position(|(id, _)| *id == process) {
            let (_, name) = self.children.swap_remove(place);
            let end = ChildEnd { cause: ChildCause::Killed, status: 0 };
            children::with(|families| families.ended(subject.system, name, end));
        }
        false
    }

    /// Whether nobody lives.
    pub fn is_over(&self) -> bool {
        self.parent.is_none() && self.children.is_empty()
    }
}
