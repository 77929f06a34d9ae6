use super::super::children::for_each_process_function;
use super::*;

/// Writes down what is asked, and answers what it was told to.
#[derive(Default)]
pub struct FakeChildren {
    /// Each spawn, in words.
    spawned: Vec<String>,
    waits: Vec<(Option<Child>, u64)>,
    killed: Vec<Child>,
    /// All that there are.
    list: Vec<(Child, ChildState)>,
}

impl Children for FakeChildren {
    fn spawn(&mut self, spawn: Spawn<'_>) -> Result<Child> {
        let words = |strings: Strings<'_>| {
            let words: Vec<_> =
                strings.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            words.join(",")
        };
        let Spawn { program, arguments, environment, directories, start, limits } = spawn;
        let strings = [arguments, environment, start].map(words);
        self.spawned.push(format!("{program} {strings:?} {directories:?} {limits:?}"));
        Ok(Child(self.spawned.len() as u64))
    }

    fn wait(&mut self, which: Option<Child>, deadline_ns: u64) -> Result<(Child, ChildEnd)> {
        self.waits.push((which, deadline_ns));
        match which {
            Some(Child(9)) => Err(Errno::Child.into()),
            which => Ok((which.unwrap_or(Child(4)), ChildEnd { cause: ChildCause::Trapped, status: 134 })),
        }
    }

    fn kill(&mut self, child: Child) -> Result<()> {
        self.killed.push(child);
        Ok(())
    }

    fn list(&mut self, show: &mut dyn FnMut(Child, ChildState)) -> Result<()> {
        self.list.iter().for_each(|(child, state)| show(*child, *state));
        Ok(())
    }
}

macro_rules! call_process_functions {
    ($($name:ident($($parameter:ident: $type:ty),*);)*) => {
        impl Program {
            /// Calls a function of `selkis_process`.
            fn process(&mut self, name: &str, parameters: &[u64]) -> Result<()> {
                let mut raw = parameters.iter().copied();
                let mut next = || raw.next().expect("as many as the function has");
                match name {
                    $(stringify!($name) => {
                        $(let $parameter = <$type>::from_raw(next());)*
                        self.state.$name(&mut Memory::new(&mut self.memory), $($parameter),*)
                    })*
                    _ => panic!("no function {name}"),
                }
            }
        }
    };
}

for_each_process_function!(call_process_functions);

/// Where the number of a child, or how it ended, is written.
const ANSWER: u64 = 64;
const NAME: usize = 0;
const NAME_LENGTH: usize = 1;
const ARGUMENTS_LENGTH: usize = 3;
const DIRECTORIES: usize = 6;
const DIRECTORY_COUNT: usize = 7;
const RESERVED: usize = 17;

fn parent() -> Program {
    let mut program = Program::new();
    program.fake().children = Some(FakeChildren::default());
    program
}

/// A record in memory of a child that is to have a bit of everything: its words.
fn record(program: &mut Program) -> [u32; 18] {
    let mut put = |bytes: &[u8]| [program.put(bytes) as u32, bytes.len() as u32];
    let ([name, name_length], [arguments, arguments_length]) = (put(b"worker"), put(b"worker\0-x\0\0"));
    let ([environment, environment_length], [start, start_length]) = (put(b"A=b\0"), put(b"tool\0"));
    let [directories, _] = put(&[4, 0, 0, 0, 3, 0, 0, 0]);
    let (memory, cpu, timeout, descriptors) = ([0x10000, 0], [0, 0], [7, 1], 9);
    let [m0, m1, c0, c1, t0, t1] = [memory, cpu, timeout].concat()[..] else { panic!("six") };
    let strings = [name, name_length, arguments, arguments_length, environment, environment_length];
    let [s0, s1, s2, s3, s4, s5] = strings;
    [s0, s1, s2, s3, s4, s5, directories, 2, start, start_length, m0, m1, c0, c1, t0, t1, descriptors, 0]
}

fn spawn(program: &mut Program, record: [u32; 18]) -> Result<()> {
    let bytes: Vec<u8> = record.into_iter().flat_map(u32::to_le_bytes).collect();
    let at = program.put(&bytes);
    program.process("spawn", &[at, ANSWER])
}

#[test]
fn a_child_gets_what_the_record_says() {
    let mut program = parent();
    let whole = record(&mut program);
    assert_eq!(spawn(&mut program, whole), Ok(()));
    assert_eq!(program.u64(ANSWER), 1);
    let nothing = [whole[NAME], whole[NAME_LENGTH], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(spawn(&mut program, nothing), Ok(()));
    let all = ChildLimits {
        memory_bytes: Some(0x10000),
        cpu_ns: None,
        timeout_ns: Some(0x1_0000_0007),
        descriptors: Some(9),
    };
    let expected = [
        format!("worker [\"worker,-x,\", \"A=b\", \"tool\"] [\"read\", \"/\"] {all:?}"),
        format!("worker [\"\", \"\", \"\"] [] {:?}", ChildLimits::default()),
    ];
    assert_eq!(program.fake().children.take().unwrap().spawned, expected);
}

#[test]
fn a_bad_record_is_an_errno() {
    let mut program = parent();
    let whole = record(&mut program);
    let unfinished = program.put(b"no NUL") as u32;
    let not_utf_8 = program.put(b"\xff") as u32;
    let [stream, closed] = [1u32, 77].map(|fd| program.put(&fd.to_le_bytes()) as u32);
    let file = program.open(ROOT, "old", 0, 2, 0).unwrap();
    let file = program.put(&(file as u32).to_le_bytes()) as u32;
    let many = program.put(&[0; 1025]) as u32;
    let cases: [(&[(usize, u32)], Errno); 13] = [
        (&[(RESERVED, 1)], Errno::Inval),
        (&[(NAME, u32::MAX)], Errno::Fault),
        (&[(NAME_LENGTH, 257)], Errno::Toobig),
        (&[(NAME, not_utf_8), (NAME_LENGTH, 1)], Errno::Ilseq),
        (&[(ARGUMENTS_LENGTH, 0x2_0000)], Errno::Fault),
        (&[(2, unfinished), (ARGUMENTS_LENGTH, 6)], Errno::Inval),
        (&[(2, many), (ARGUMENTS_LENGTH, 1025)], Errno::Toobig),
        (&[(DIRECTORIES, 2)], Errno::Inval),
        (&[(DIRECTORIES, 0xfffc)], Errno::Fault),
        (&[(DIRECTORY_COUNT, 257)], Errno::Toobig),
        (&[(DIRECTORIES, stream), (DIRECTORY_COUNT, 1)], Errno::Notcapable),
        (&[(DIRECTORIES, file), (DIRECTORY_COUNT, 1)], Errno::Notcapable),
        (&[(DIRECTORIES, closed), (DIRECTORY_COUNT, 1)], Errno::Badf),
    ];
    for (changes, errno) in cases {
        let mut changed = whole;
        changes.iter().for_each(|(word, value)| changed[*word] = *value);
        assert_eq!(spawn(&mut program, changed), Err(Error::Errno(errno)), "{changes:?}");
    }
    assert_eq!(program.process("spawn", &[4, ANSWER]), Err(Errno::Inval.into()), "not aligned");
    assert_eq!(program.process("spawn", &[MEMORY_BYTES as u64 - 64, ANSWER]), Err(Errno::Fault.into()));
    let at = program.put(&[0; 72]);
    assert_eq!(program.process("spawn", &[at, MEMORY_BYTES as u64]), Err(Errno::Fault.into()));
    // More than can be copied, all of it in memory.
    program.memory.resize(2 * MEMORY_BYTES, 0);
    let changed = { (0..18).map(|word| if word == ARGUMENTS_LENGTH { 0x1_0001 } else { whole[word] }) };
    let changed: Vec<u32> = changed.collect();
    assert_eq!(spawn(&mut program, changed.try_into().unwrap()), Err(Errno::Toobig.into()));
    assert_eq!(program.fake().children.take().unwrap().spawned, [""; 0]);
}

#[test]
fn an_end_is_written_and_a_time_is_a_deadline() {
    let mut program = parent();
    for (child, timeout) in [(0, 0), (3, u64::MAX), (3, 5)] {
        assert_eq!(program.process("wait", &[child, timeout, ANSWER]), Ok(()));
    }
    assert_eq!((program.u64(ANSWER), program.u32(ANSWER + 8), program.u32(ANSWER + 12)), (3, 1, 134));
    assert_eq!(program.process("wait", &[9, 0, ANSWER]), Err(Errno::Child.into()));
    assert_eq!(program.process("wait", &[0, 0, MEMORY_BYTES as u64 - 8]), Err(Errno::Fault.into()));
    assert_eq!(program.process("kill", &[5]), Ok(()));
    let children = program.fake().children.take().unwrap();
    let expected =
        [(None, 0), (Some(Child(3)), u64::MAX), (Some(Child(3)), BEGIN_NS + 5), (Some(Child(9)), 0)];
    assert_eq!(children.waits, expected);
    assert_eq!(children.killed, [Child(5)]);
}

#[test]
fn a_list_is_cut_where_its_room_ends() {
    let mut program = parent();
    let list = [(Child(2), ChildState::Ended), (Child(3), ChildState::Lives), (Child(7), ChildState::Lives)];
    program.fake().children.as_mut().unwrap().list.extend(list);
    program.memory[128..192].fill(0xee);
    assert_eq!(program.process("list", &[128, 2, ANSWER]), Ok(()));
    assert_eq!(program.u32(ANSWER), 3);
    assert_eq!([128, 136, 144, 152, 160].map(|at| program.u64(at)), [2, 1, 3, 0, 0xeeee_eeee_eeee_eeee]);
    assert_eq!(program.process("list", &[128, u32::MAX.into(), ANSWER]), Err(Errno::Fault.into()));
    assert_eq!(program.process("list", &[0, 0, ANSWER]), Ok(()));
}

#[test]
fn who_may_start_nothing_is_told_so() {
    let mut program = Program::new();
    let whole = record(&mut program);
    assert_eq!(spawn(&mut program, whole), Err(Errno::Notcapable.into()));
    for (name, parameters) in [("wait", &[0, 0, ANSWER][..]), ("kill", &[1]), ("list", &[0, 0, ANSWER])] {
        assert_eq!(program.process(name, parameters), Err(Errno::Notcapable.into()), "{name}");
    }
}
