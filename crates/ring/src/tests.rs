//! Both sides on one memory: in any order of their steps and with stores that are seen late, and against a side that stores
//! anything.

use crate::{Bell, Broken, Memory, Pair, Shape, Side};
use std::boxed::Box;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::vec::Vec;
use std::{thread, vec};

const SHAPE: Shape = Shape { down: 16, up: 8 };

/// Numbers that look random and are the same each time (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }
}

/// Memory without any order but that of one thread.
#[derive(Clone)]
struct Plain(Arc<Mutex<Vec<u8>>>);

impl Plain {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(vec![0; SHAPE.bytes()])))
    }
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

impl Memory for Plain {
    fn load(&self, offset: usize) -> u32 {
        word(&self.0.lock().unwrap(), offset)
    }

    fn store(&self, offset: usize, value: u32) {
        self.copy_in(offset, &value.to_le_bytes());
    }

    fn swap(&self, offset: usize, value: u32) -> u32 {
        let before = self.load(offset);
        self.store(offset, value);
        before
    }

    fn barrier(&self) {}

    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.0.lock().unwrap()[offset..][..into.len()]);
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.0.lock().unwrap()[offset..][..bytes.len()].copy_from_slice(bytes);
    }
}

#[test]
fn bytes_arrive_in_order_in_both_directions() {
    let memory = Plain::new();
    let mut maker = Pair::new(memory.clone(), SHAPE, Side::Maker);
    let mut other = Pair::new(memory, SHAPE, Side::Other);
    let mut buffer = [0; 32];
    for round in 0u8..100 {
        assert_eq!(maker.writer.write(&[&[round], b"", b"down"]).unwrap().0, 5);
        assert_eq!(other.writer.write(&[b"up", &[round]]).unwrap().0, 3);
        assert_eq!(other.reader.read(&mut buffer).unwrap().0, 5);
        assert_eq!(&buffer[..5], &[&[round], &b"down"[..]].concat());
        assert_eq!(maker.reader.read(&mut buffer).unwrap().0, 3);
        assert_eq!(&buffer[..3], &[b"up", &[round][..]].concat());
    }
}

#[test]
fn a_bell_is_rung_for_who_asked_and_once() {
    let memory = Plain::new();
    let mut maker = Pair::new(memory.clone(), SHAPE, Side::Maker);
    let mut other = Pair::new(memory, SHAPE, Side::Other);
    let mut buffer = [0; 16];
    assert_eq!(maker.writer.write(&[b"a"]), Ok((1, Bell::Silent)), "nobody asked");
    assert_eq!(other.reader.read(&mut buffer), Ok((1, Bell::Silent)));
    assert_eq!(maker.writer.write(&[b"b"]), Ok((1, Bell::Ring)));
    assert_eq!(maker.writer.write(&[b"c"]), Ok((1, Bell::Silent)), "the question was answered");
    assert_eq!(maker.writer.write(&[&[0; 20]]), Ok((14, Bell::Silent)));
    assert_eq!(maker.writer.room(), Ok(0));
    assert_eq!(other.reader.read(&mut buffer[..4]), Ok((4, Bell::Ring)), "the writer asked for room");
    assert_eq!(other.reader.read(&mut buffer[..4]), Ok((4, Bell::Silent)));
    assert_eq!(maker.writer.room(), Ok(8));
}

#[test]
fn any_memory_is_survived() {
    let mut random = Random(7);
    let (mut broken, mut moved) = (0, 0);
    for _ in 0..2000 {
        let memory = Plain::new();
        let mut pair = Pair::new(memory.clone(), SHAPE, Side::Maker);
        for _ in 0..20 {
            let offset = random.below(SHAPE.bytes() / 4) * 4;
            let small = random.below(40) as u32;
            memory.store(offset, if random.below(2) == 0 { small } else { random.next() as u32 });
            let mut buffer = [0; 24];
            let size = random.below(24);
            let results = [pair.reader.read(&mut buffer[..size]), pair.writer.write(&[&buffer[..size]])];
            for result in results {
                match result {
                    Ok((count, _)) => {
                        assert!(count <= size);
                        moved += count;
                    }
                    Err(Broken) => broken += 1,
                }
            }
        }
    }
    assert!(broken > 1000 && moved > 1000, "{broken} {moved}: the test looks at both");
}

#[test]
fn what_is_broken_stays_so() {
    let memory = Plain::new();
    let mut pair = Pair::new(memory.clone(), SHAPE, Side::Other);
    memory.store(0, 17);
    assert_eq!(pair.reader.read(&mut [0; 4]), Err(Broken), "more than fits");
    memory.store(0, 1);
    assert_eq!(pair.reader.read(&mut [0; 4]), Err(Broken));
    assert_eq!(pair.writer.write(&[b"x"]), Ok((1, Bell::Silent)), "the other direction is another ring");
}

/// A machine with two CPUs, each of which keeps stores to itself for a while (the order of x86, TSO). Each access is a step, and
/// a seed says who makes the next and when a store comes out.
struct Steps {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    random: Random,
    memory: Vec<u8>,
    /// Stores of each CPU that nobody else has seen.
    buffers: [VecDeque<(usize, Vec<u8>)>; 2],
    bells: [bool; 2],
    doing: [Doing; 2],
    turn: usize,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Doing {
    Runs,
    /// For its bell.
    Waits,
    Done,
}

#[derive(Clone)]
struct Cpu(Arc<Steps>, usize);

impl State {
    /// Lets some stores out, and says whose turn is next. Both wait and no bell is rung: one was lost.
    fn go_on(&mut self) {
        for cpu in 0..2 {
            while !self.buffers[cpu].is_empty() && self.random.below(4) == 0 {
                self.let_out(cpu);
            }
            if self.doing[cpu] == Doing::Waits && self.bells[cpu] {
                (self.bells[cpu], self.doing[cpu]) = (false, Doing::Runs);
            }
        }
        let runs = |cpu: &usize| self.doing[*cpu] == Doing::Runs;
        let ready: Vec<usize> = (0..2).filter(runs).collect();
        match ready.as_slice() {
            [] => assert_eq!(self.doing, [Doing::Done; 2], "a bell was lost"),
            some => self.turn = some[self.random.below(some.len())],
        }
    }

    fn let_out(&mut self, cpu: usize) {
        if let Some((offset, bytes)) = self.buffers[cpu].pop_front() {
            self.memory[offset..][..bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn let_all_out(&mut self, cpu: usize) {
        while !self.buffers[cpu].is_empty() {
            self.let_out(cpu);
        }
    }

    /// What a CPU sees: its own stores are the newest.
    fn seen(&self, cpu: usize, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = self.memory[offset..][..length].to_vec();
        for (at, stored) in &self.buffers[cpu] {
            for (index, byte) in stored.iter().enumerate() {
                if let Some(place) = (at + index).checked_sub(offset).filter(|place| *place < length) {
                    bytes[place] = *byte;
                }
            }
        }
        bytes
    }
}

impl Cpu {
    /// One step, when it is our turn.
    fn step<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.turn();
        let result = act(&mut state);
        state.go_on();
        drop(state);
        self.0.changed.notify_all();
        result
    }

    fn turn(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock().unwrap();
        let is_ours = |state: &mut State| state.turn != self.1 || state.doing[self.1] != Doing::Runs;
        self.0.changed.wait_while(state, is_ours).unwrap()
    }

    fn ring(&self, bell: Bell) {
        if bell == Bell::Ring {
            self.step(|state| {
                // A request to the kernel orders everything.
                state.let_all_out(self.1);
                state.bells[1 - self.1] = true;
            });
        }
    }

    fn wait(&self) {
        self.step(|state| {
            state.let_all_out(self.1);
            state.doing[self.1] = Doing::Waits;
        });
    }
}

impl Memory for Cpu {
    fn load(&self, offset: usize) -> u32 {
        self.step(|state| word(&state.seen(self.1, offset, 4), 0))
    }

    fn store(&self, offset: usize, value: u32) {
        self.copy_in(offset, &value.to_le_bytes());
    }

    fn swap(&self, offset: usize, value: u32) -> u32 {
        self.step(|state| {
            state.let_all_out(self.1);
            let before = word(&state.memory, offset);
            state.memory[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            before
        })
    }

    fn barrier(&self) {
        self.step(|state| state.let_all_out(self.1));
    }

    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.step(|state| state.seen(self.1, offset, into.len())));
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.step(|state| state.buffers[self.1].push_back((offset, bytes.to_vec())));
    }
}

/// How many bytes go through in one run: some times around.
const TOTAL: u8 = 60;

fn write_all(cpu: Cpu, seed: u64) {
    let mut random = Random(seed | 1);
    let mut writer = Pair::new(cpu.clone(), SHAPE, Side::Other).writer;
    let mut sent = 0;
    while sent < TOTAL {
        let size = (1 + random.below(11)).min(usize::from(TOTAL - sent));
        let bytes: Vec<u8> = (sent..sent + size as u8).collect();
        let (count, bell) = writer.write(&[&bytes[..size / 2], &bytes[size / 2..]]).unwrap();
        sent += count as u8;
        cpu.ring(bell);
        if count < size {
            cpu.wait();
        }
    }
}

fn read_all(cpu: Cpu, seed: u64) {
    let mut random = Random(seed | 1);
    let mut reader = Pair::new(cpu.clone(), SHAPE, Side::Maker).reader;
    let mut next = 0;
    while next < TOTAL {
        let mut buffer = [0; 12];
        let size = 1 + random.below(12);
        let (count, bell) = reader.read(&mut buffer[..size]).unwrap();
        for byte in &buffer[..count] {
            assert_eq!(*byte, next);
            next += 1;
        }
        cpu.ring(bell);
        if count < size && next < TOTAL {
            cpu.wait();
        }
    }
}

/// One run of both sides.
fn run(seed: u64) {
    let state = State {
        random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        memory: vec![0; SHAPE.bytes()],
        buffers: Default::default(),
        bells: [false; 2],
        doing: [Doing::Runs; 2],
        turn: 0,
    };
    let steps = Arc::new(Steps { state: Mutex::new(state), changed: Condvar::new() });
    let sides: [Box<dyn FnOnce(Cpu) + Send>; 2] =
        [Box::new(move |cpu| write_all(cpu, seed)), Box::new(move |cpu| read_all(cpu, seed + 1))];
    let threads: Vec<_> = (0..2)
        .zip(sides)
        .map(|(number, side)| {
            let cpu = Cpu(steps.clone(), number);
            thread::spawn(move || {
                side(cpu.clone());
                cpu.step(|state| {
                    state.let_all_out(cpu.1);
                    state.doing[cpu.1] = Doing::Done;
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn no_byte_and_no_bell_is_lost_in_any_order() {
    (0..1500).for_each(run);
}
