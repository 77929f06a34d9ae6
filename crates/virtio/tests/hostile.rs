//! A device that breaks the rules gets an error, and the driver never a panic, an access outside of its memory (the
//! fake checks), or a loop without end.

use fake::{
    Bus, EVENT_INDEX, MULTIPORT, Machine, Memory, Noise, STATUS_FAILED, STATUS_NEEDS_RESET, VERSION_1, Window,
};
use proptest::prelude::*;
use virtio::{Console, Entropy, Error, Interrupts, Transport};

mod fake;

const CONSOLE: u32 = 3;
const MEMORY_BYTES: usize = Console::<Window, Memory>::MEMORY_BYTES;

fn console(bus: Bus) -> (Machine, Console<Window, Memory>) {
    offering(bus, VERSION_1 | EVENT_INDEX)
}

fn offering(bus: Bus, features: u64) -> (Machine, Console<Window, Memory>) {
    let machine = Machine::new(bus, CONSOLE, MEMORY_BYTES, features);
    let transport = match bus {
        Bus::Mmio => Transport::mmio(machine.window()),
        Bus::Pci => Transport::pci(&machine),
    };
    let console = Console::open(transport.unwrap(), Interrupts::Line, machine.memory()).unwrap();
    (machine, console)
}

/// What the driver must find out, and that it stays found out.
fn expect_misbehaved(machine: &Machine, console: &mut Console<Window, Memory>) {
    let mut buffer = [0; 100];
    let read = console.read(&mut buffer);
    let idle = console.tx_idle();
    assert!(read == Err(Error::Misbehaved) || idle == Err(Error::Misbehaved), "{read:?} {idle:?}");
    assert!(machine.state().status & STATUS_FAILED != 0, "the device is told");
    assert_eq!(console.read(&mut buffer), Err(Error::Misbehaved));
    assert_eq!(console.try_write(b"x"), Err(Error::Misbehaved));
    assert_eq!(console.tx_idle(), Err(Error::Misbehaved));
    assert_eq!(console.on_interrupt(), Err(Error::Misbehaved));
}

#[test]
fn a_wrong_buffer_is_refused() {
    for id in [64, 65, 0xffff, 0x1_0000, u32::MAX] {
        let (machine, mut console) = console(Bus::Mmio);
        machine.state().give_back(0, id, 1);
        expect_misbehaved(&machine, &mut console);
    }
}

#[test]
fn a_buffer_that_the_device_does_not_have_is_refused() {
    let (machine, mut console) = console(Bus::Pci);
    console.try_write(b"abc").unwrap();
    machine.state().give_back(1, 1, 0);
    expect_misbehaved(&machine, &mut console);
}

#[test]
fn a_buffer_is_not_taken_back_twice() {
    let (machine, mut console) = console(Bus::Mmio);
    machine.state().give_back(0, 5, 10);
    machine.state().give_back(0, 5, 10);
    assert_eq!(console.read(&mut [0; 10]), Ok(10));
    console.try_write(b"a").unwrap();
    console.try_write(b"b").unwrap();
    machine.state().give_back(1, 0, 0);
    machine.state().give_back(1, 0, 0);
    assert_eq!(console.tx_idle(), Err(Error::Misbehaved));
}

#[test]
fn a_buffer_that_was_not_handed_over_yet_is_refused() {
    let (machine, mut console) = console(Bus::Mmio);
    for id in 0..3 {
        machine.state().give_back(0, id, 1);
    }
    // Three buffers wait to be handed over again together with others; the device has the other 61.
    assert_eq!(console.read(&mut [0; 3]), Ok(3));
    for id in (3..64).chain([0]) {
        machine.state().give_back(0, id, 1);
    }
    expect_misbehaved(&machine, &mut console);
}

#[test]
fn a_wrong_length_is_refused() {
    for length in [0, 4097, 0x1_0000, u32::MAX] {
        let (machine, mut console) = console(Bus::Mmio);
        machine.state().give_back(0, 0, length);
        expect_misbehaved(&machine, &mut console);
    }
    let (machine, mut console) = console(Bus::Mmio);
    machine.state().give_back(0, 0, 4096);
    assert_eq!(console.read(&mut vec![0; 5000]), Ok(4096));
    console.try_write(b"abc").unwrap();
    machine.state().give_back(1, 0, 3);
    assert_eq!(console.tx_idle(), Ok(true), "some devices count what they read");
}

#[test]
fn a_wrong_index_is_refused() {
    for (queue, index) in [(0, 65), (0, 0x8000), (0, 0xffff), (1, 1), (1, 0xffff)] {
        let (machine, mut console) = console(Bus::Pci);
        let used = machine.state().queues[queue].used;
        machine.state().write16(used + 2, index);
        expect_misbehaved(&machine, &mut console);
    }
}

#[test]
fn a_control_message_that_is_cut_short_is_refused() {
    let (machine, mut console) = offering(Bus::Mmio, VERSION_1 | EVENT_INDEX | MULTIPORT);
    machine.state().give_back(2, 0, 7);
    assert_eq!(console.on_interrupt(), Err(Error::Misbehaved));
}

#[test]
fn a_device_that_says_the_same_for_ever_is_refused() {
    let (machine, mut console) = offering(Bus::Mmio, VERSION_1 | EVENT_INDEX | MULTIPORT);
    while machine.state().control() {}
    machine.meanwhile(|state| {
        state.say(0, 5, 0);
        state.control();
    });
    assert_eq!(console.on_interrupt(), Err(Error::Misbehaved));
}

#[test]
fn a_device_that_has_failed_says_so() {
    for bus in [Bus::Mmio, Bus::Pci] {
        let (machine, mut console) = console(bus);
        machine.state().raise(2);
        assert_eq!(console.on_interrupt(), Ok(()), "a change of configuration is nothing bad");
        machine.state().status |= STATUS_NEEDS_RESET;
        machine.state().raise(2);
        assert_eq!(console.on_interrupt(), Err(Error::NeedsReset));
        assert_eq!(console.read(&mut [0]), Err(Error::NeedsReset));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn rings_full_of_noise_do_no_harm(
        seed in 1..u64::MAX,
        pci in any::<bool>(),
        offered in prop::sample::select(vec![VERSION_1, VERSION_1 | EVENT_INDEX, u64::MAX]),
        turns in prop::collection::vec((0..5u8, 0..70_000usize), 1..60),
    ) {
        let (machine, mut console) = offering(if pci { Bus::Pci } else { Bus::Mmio }, offered);
        let ports = if offered == u64::MAX { 2..6 } else { 0..2 };
        machine.state().noise = Some(Noise(seed));
        let mut buffer = vec![0; 70_000];
        for (choice, count) in turns {
            match choice {
                0 => if let Ok(read) = console.read(&mut buffer[..count]) { prop_assert!(read <= count) },
                1 => if let Ok(written) = console.try_write(&buffer[..count]) { prop_assert!(written <= count) },
                2 => { let _ = console.tx_idle(); }
                3 => { let _ = console.on_interrupt(); }
                // A device that means well, seen through the noise.
                _ => machine.state().give_back(ports.start + count % ports.len(), (count / 4 % 70) as u32, (count % 5000) as u32),
            }
        }
    }

    #[test]
    fn registers_full_of_noise_do_no_harm(seed in 1..u64::MAX, pci in any::<bool>(), vector in any::<u16>()) {
        let bus = if pci { Bus::Pci } else { Bus::Mmio };
        let machine = Machine::new(bus, CONSOLE, MEMORY_BYTES, u64::MAX);
        machine.state().noise = Some(Noise(seed));
        let transport = if pci { Transport::pci(&machine) } else { Transport::mmio(machine.window()) };
        if let Ok(transport) = transport {
            let interrupts = if pci { Interrupts::Vector(vector) } else { Interrupts::Line };
            let _ = transport.config32(usize::from(vector));
            let _ = Console::open(transport, interrupts, machine.memory());
        }
    }

    #[test]
    fn a_configuration_space_full_of_noise_does_no_harm(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(9), Just(0), Just(0x40)], 252),
    ) {
        let machine = Machine::new(Bus::Pci, CONSOLE, MEMORY_BYTES, u64::MAX);
        machine.state().pci_config = [&[0xf4, 0x1a, 0x43, 0x10], &bytes[..]].concat();
        if let Ok(transport) = Transport::pci(&machine) {
            prop_assert!(transport.config8(0).is_ok() || transport.config8(0) == Err(Error::BadLayout));
        }
    }

    #[test]
    fn a_capability_that_is_changed_anywhere_does_no_harm(
        changes in prop::collection::vec((0x34..0x98usize, any::<u8>()), 1..6),
    ) {
        let machine = Machine::new(Bus::Pci, CONSOLE, MEMORY_BYTES, u64::MAX);
        for (at, byte) in changes {
            machine.state().pci_config[at] = byte;
        }
        // Registers found elsewhere are not the fake's: only what lies where it should is used further.
        let _ = Transport::pci(&machine);
    }

    #[test]
    fn entropy_through_noise_does_no_harm(seed in 1..u64::MAX, reads in prop::collection::vec(0..200usize, 1..30)) {
        let bytes = Entropy::<Window, Memory>::MEMORY_BYTES;
        let machine = Machine::new(Bus::Mmio, 4, bytes, u64::MAX);
        let transport = Transport::mmio(machine.window()).unwrap();
        let mut entropy = Entropy::open(transport, Interrupts::Line, machine.memory()).unwrap();
        machine.state().noise = Some(Noise(seed));
        for count in reads {
            let _ = entropy.read(&mut vec![0; count]);
            let _ = entropy.on_interrupt();
        }
    }
}
