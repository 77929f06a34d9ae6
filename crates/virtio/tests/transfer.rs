//! A console moves bytes, whatever the order in which driver and device get to work, with no interrupt and no
//! notification lost: after the first turn the driver only acts when it is interrupted.

use std::cell::RefCell;
use std::rc::Rc;

use fake::{Bus, EVENT_INDEX, MULTIPORT, Machine, Memory, Noise, State, VERSION_1, Window};
use proptest::prelude::*;
use virtio::{Console, Entropy, Interrupts, Transport};

mod fake;

const CONSOLE: u32 = 3;
const ENTROPY: u32 = 4;
const MEMORY_BYTES: usize = Console::<Window, Memory>::MEMORY_BYTES;

fn console(bus: Bus, offered: u64) -> (Machine, Console<Window, Memory>) {
    let machine = Machine::new(bus, CONSOLE, MEMORY_BYTES, offered);
    let (transport, interrupts) = match bus {
        Bus::Mmio => (Transport::mmio(machine.window()), Interrupts::Line),
        Bus::Pci => (Transport::pci(&machine), Interrupts::Vector(1)),
    };
    let console = Console::open(transport.unwrap(), interrupts, machine.memory()).unwrap();
    (machine, console)
}

/// The far end of the console.
struct Host {
    to_guest: Vec<u8>,
    sent: usize,
    heard: Vec<u8>,
}

impl Host {
    fn new(to_guest: Vec<u8>) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { to_guest, sent: 0, heard: Vec::new() }))
    }

    /// Lets the device do one thing; says whether there was something to do.
    fn step(&mut self, state: &mut State, choice: u8) -> bool {
        if choice.is_multiple_of(7) {
            state.control()
        } else if choice.is_multiple_of(2) {
            let most = [1, 100, 4096][usize::from(choice / 2 % 3)];
            let sent = state.receive(&self.to_guest[self.sent..], most);
            self.sent += sent;
            sent > 0
        } else {
            let heard = state.transmit();
            self.heard.extend(heard.iter().flatten());
            heard.is_some()
        }
    }
}

/// The program that uses the console.
struct Guest {
    machine: Machine,
    console: Console<Window, Memory>,
    to_send: Vec<u8>,
    written: usize,
    got: Vec<u8>,
    read_bytes: usize,
    write_bytes_max: usize,
}

impl Guest {
    fn turn(&mut self) {
        self.console.on_interrupt().unwrap();
        // With several ports the driver looks at the control queues there, and the device goes on meanwhile.
        if self.machine.state().bus == Bus::Mmio && self.machine.state().accepted & MULTIPORT == 0 {
            assert_eq!(self.machine.state().isr, 0, "the line is down, or it would interrupt for ever");
        }
        let mut buffer = vec![0; self.read_bytes];
        loop {
            let count = self.console.read(&mut buffer).unwrap();
            self.got.extend(&buffer[..count]);
            if count < buffer.len() {
                break;
            }
        }
        while self.written < self.to_send.len() {
            let rest = &self.to_send[self.written..];
            let rest = &rest[..rest.len().min(self.write_bytes_max)];
            let (first, second) = rest.split_at(rest.len() / 3);
            let count = self.console.try_write_parts(&[first, &[], second]).unwrap();
            self.written += count;
            if count < rest.len() {
                break;
            }
        }
    }

    fn take_interrupt(&self) -> bool {
        std::mem::take(&mut self.machine.state().interrupt)
    }
}

/// Both sides work until neither has a reason to.
fn settle(guest: &mut Guest, host: &RefCell<Host>) {
    loop {
        if guest.take_interrupt() {
            guest.turn();
        } else if !(4..8).any(|choice| host.borrow_mut().step(&mut guest.machine.state(), choice)) {
            return;
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    let mut noise = Noise(length as u64 | 1);
    (0..length).map(|_| noise.next() as u8).collect()
}

fn buses() -> impl Strategy<Value = (Bus, u64)> {
    let features = prop::sample::select(vec![VERSION_1, VERSION_1 | EVENT_INDEX, u64::MAX]);
    (prop::sample::select(vec![Bus::Mmio, Bus::Pci]), features)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_in_order_and_nobody_is_left_waiting(
        (bus, offered) in buses(),
        (in_bytes, out_bytes) in (0usize..700_000, 0usize..700_000),
        (read_bytes, write_bytes_max) in (prop_oneof![Just(1usize << 16), 1000..9000usize], 1..40_000usize),
        schedule in prop::collection::vec(any::<u8>(), 0..500),
        meanwhile in prop::collection::vec(any::<u8>(), 1..50),
    ) {
        let (machine, console) = console(bus, offered);
        let (to_send, got) = (pattern(out_bytes), Vec::new());
        let mut guest =
            Guest { machine: machine.clone(), console, to_send, written: 0, got, read_bytes, write_bytes_max };
        let host = Host::new(pattern(in_bytes));
        let device = host.clone();
        let mut turns = meanwhile.into_iter().cycle();
        machine.meanwhile(move |state| {
            let choice = turns.next().unwrap_or(0);
            if choice < 200 {
                device.borrow_mut().step(state, choice);
            }
        });
        guest.turn();
        for choice in schedule {
            match choice {
                0..20 => { guest.console.tx_idle().unwrap(); }
                20..120 => if guest.take_interrupt() { guest.turn() },
                _ => { host.borrow_mut().step(&mut machine.state(), choice); }
            }
        }
        settle(&mut guest, &host);
        prop_assert_eq!(guest.written, out_bytes, "the writer was left waiting");
        prop_assert_eq!(guest.got.len(), in_bytes, "the reader was left waiting");
        prop_assert!(guest.got == host.borrow().to_guest && host.borrow().heard == guest.to_send);
        prop_assert!(guest.console.tx_idle().unwrap());
    }
}

#[test]
fn idle_comes_with_an_interrupt() {
    for (bus, offered) in [(Bus::Mmio, VERSION_1), (Bus::Pci, VERSION_1 | EVENT_INDEX)] {
        let (machine, mut console) = console(bus, offered);
        assert!(console.tx_idle().unwrap());
        for _ in 0..3 {
            assert_eq!(console.try_write(b"abc").unwrap(), 3);
        }
        assert!(!console.tx_idle().unwrap());
        for _ in 0..2 {
            machine.state().transmit().unwrap();
        }
        assert!(!console.tx_idle().unwrap());
        machine.state().interrupt = false;
        machine.state().transmit().unwrap();
        assert!(machine.state().interrupt);
        assert!(console.tx_idle().unwrap());
    }
}

#[test]
fn indices_wrap_around() {
    let (machine, mut console) = console(Bus::Mmio, VERSION_1 | EVENT_INDEX);
    let mut buffer = [0; 8];
    for round in 0..70_000u32 {
        let bytes = round.to_le_bytes();
        assert_eq!(console.try_write(&bytes).unwrap(), 4);
        assert_eq!(machine.state().transmit().unwrap(), bytes);
        assert_eq!(machine.state().receive(&bytes, 4), 4);
        assert_eq!(console.read(&mut buffer).unwrap(), 4);
        assert_eq!(buffer[..4], bytes);
    }
}

#[test]
fn a_stream_costs_few_notifications_and_interrupts() {
    const MIB: usize = 1 << 20;
    let (machine, mut console) = console(Bus::Mmio, VERSION_1 | EVENT_INDEX);
    let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
    let piece = vec![7; 4096];
    // The device fills what it has, then the driver reads what has come: as when they take turns on one CPU.
    while received < 16 * MIB {
        while machine.state().receive(&piece, 4096) > 0 {}
        loop {
            let count = console.read(&mut buffer).unwrap();
            received += count;
            if count < buffer.len() {
                break;
            }
        }
    }
    // 256 KiB in flight at a time: 64 rounds for 16 MiB.
    let (notifications, interrupts) = machine.costs();
    assert!(notifications <= 2 * 64 + 2, "{notifications} notifications to receive 16 MiB");
    assert!(interrupts <= 64 + 2, "{interrupts} interrupts to receive 16 MiB");

    machine.state().notifications = 0;
    machine.state().interrupts = 0;
    let mut written = 0;
    while written < 16 * MIB {
        written += console.try_write(&buffer).unwrap();
        if written / (256 << 10) != (written - 1) / (256 << 10) {
            while machine.state().transmit().is_some() {}
        }
    }
    let (notifications, interrupts) = machine.costs();
    assert!(notifications <= 2 * 64 + 2, "{notifications} notifications to send 16 MiB");
    assert!(interrupts <= 64 + 2, "{interrupts} interrupts to send 16 MiB");
}

#[test]
fn try_write_takes_what_fits_and_never_waits() {
    let (machine, mut console) = console(Bus::Pci, VERSION_1 | EVENT_INDEX);
    let bytes = pattern(300 << 10);
    assert_eq!(console.try_write(&bytes).unwrap(), 256 << 10);
    assert_eq!(console.try_write(&bytes).unwrap(), 0, "the device has done nothing yet");
    let first = machine.state().transmit().unwrap();
    assert_eq!(first, bytes[..16 << 10]);
    assert_eq!(console.try_write(&bytes[256 << 10..]).unwrap(), 16 << 10);
    assert_eq!(console.try_write(&[]).unwrap(), 0);
    assert_eq!(console.read(&mut []).unwrap(), 0);
}

#[test]
fn entropy_comes_once_each() {
    let bytes = Entropy::<Window, Memory>::MEMORY_BYTES;
    let machine = Machine::new(Bus::Pci, ENTROPY, bytes, u64::MAX);
    let transport = Transport::pci(&machine).unwrap();
    let mut entropy = Entropy::open(transport, Interrupts::Vector(0), machine.memory()).unwrap();
    let mut seed = [0; 32];
    assert_eq!(entropy.read(&mut seed).unwrap(), 0);
    let source = pattern(128);
    assert_eq!(machine.state().receive(&source, 40), 40);
    assert!(machine.state().interrupt);
    entropy.on_interrupt().unwrap();
    assert_eq!(entropy.read(&mut seed).unwrap(), 32);
    assert_eq!(seed, source[..32]);
    assert_eq!(entropy.read(&mut seed).unwrap(), 8);
    assert_eq!(seed[..8], source[32..40]);
    assert_eq!(machine.state().receive(&source[40..], 128), 64, "both buffers are with the device again");
}
