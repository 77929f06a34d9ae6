//! Finding a device, agreeing with it, and what is said when that cannot be done.

use fake::{Bus, EVENT_INDEX, MULTIPORT, Machine, Memory, STATUS_FAILED, VERSION_1, Window};
use virtio::{Console, DeviceType, Error, Interrupts, Port, Transport};

mod fake;

const CONSOLE: u32 = 3;
const MEMORY_BYTES: usize = Console::<Window, Memory>::MEMORY_BYTES;

fn machine(bus: Bus) -> Machine {
    Machine::new(bus, CONSOLE, MEMORY_BYTES, VERSION_1 | EVENT_INDEX | 0xd)
}

fn transport(machine: &Machine) -> Result<Transport<Window>, Error> {
    let bus = machine.state().bus;
    match bus {
        Bus::Mmio => Transport::mmio(machine.window()),
        Bus::Pci => Transport::pci(machine),
    }
}

fn open(machine: &Machine) -> Result<Console<Window, Memory>, Error> {
    Console::open(transport(machine)?, Interrupts::Line, machine.memory())
}

fn set_config(machine: &Machine, at: usize, bytes: &[u8]) {
    machine.state().pci_config[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn only_known_features_are_accepted_and_the_device_is_started() {
    for bus in [Bus::Mmio, Bus::Pci] {
        let machine = machine(bus);
        open(&machine).unwrap();
        let state = machine.state();
        assert_eq!(state.accepted, VERSION_1 | EVENT_INDEX);
        assert_eq!(state.status, 0x0f);
        assert!(state.queues[..2].iter().all(|queue| queue.ready));
        assert_eq!((state.queues[0].size, state.queues[1].size), (64, 16));
        assert_eq!(state.notifications, 1, "the receive buffers are announced");
    }
}

#[test]
fn a_legacy_device_is_named_as_such() {
    let mmio = machine(Bus::Mmio);
    mmio.state().mmio_version = 1;
    assert_eq!(open(&mmio).err(), Some(Error::Legacy));
    assert!(Error::Legacy.to_string().contains("-global virtio-mmio.force-legacy=false"));
    let unmodern = machine(Bus::Mmio);
    unmodern.state().offered = EVENT_INDEX;
    assert_eq!(open(&unmodern).err(), Some(Error::Legacy));
    assert!(unmodern.state().status & STATUS_FAILED != 0);
    let pci = machine(Bus::Pci);
    set_config(&pci, 6, &[0, 0]);
    assert_eq!(open(&pci).err(), Some(Error::Legacy), "no capabilities");
}

#[test]
fn empty_and_foreign_registers_are_told_apart() {
    let empty = machine(Bus::Mmio);
    empty.state().kind = 0;
    assert_eq!(open(&empty).err(), Some(Error::NoDevice));
    let other = machine(Bus::Mmio);
    other.state().kind = 2;
    assert_eq!(open(&other).err(), Some(Error::WrongDevice(DeviceType(2))));
    let newer = machine(Bus::Mmio);
    newer.state().mmio_version = 3;
    assert_eq!(open(&newer).err(), Some(Error::NotVirtio));
    let foreign = machine(Bus::Pci);
    set_config(&foreign, 0, &[0x86, 0x80]);
    assert_eq!(open(&foreign).err(), Some(Error::NotVirtio));
}

#[test]
fn pci_functions_are_identified_both_ways() {
    let transitional = machine(Bus::Pci);
    assert_eq!(transport(&transitional).unwrap().device_type(), DeviceType::CONSOLE);
    let modern = machine(Bus::Pci);
    set_config(&modern, 2, &[0x44, 0x10]);
    assert_eq!(transport(&modern).unwrap().device_type(), DeviceType::ENTROPY);
    assert_eq!(modern.state().pci_config[4] & 6, 6, "memory and bus mastering are on");
}

#[test]
fn structures_must_lie_in_their_windows() {
    // Offsets of fields in the fake's capability list: see its `pci_config`.
    let common = 0x40;
    for (at, bytes) in [
        (common + 4, &[6][..]),
        (common + 4, &[0][..]),
        (common + 8, &[2, 0, 0, 0][..]),
        (common + 8, &[0xff, 0xff, 0xff, 0xff][..]),
        (common + 12, &[55, 0, 0, 0][..]),
        (common + 12, &[0, 0x41, 0, 0][..]),
        (common + 2, &[15][..]),
    ] {
        let machine = machine(Bus::Pci);
        set_config(&machine, at, bytes);
        assert_eq!(open(&machine).err(), Some(Error::BadLayout), "{bytes:?} at {at:#x}");
    }
    let circle = machine(Bus::Pci);
    set_config(&circle, 0x51, &[0x98]);
    assert_eq!(open(&circle).err(), Some(Error::BadLayout), "a list that goes in circles");
    let far_doorbell = machine(Bus::Pci);
    set_config(&far_doorbell, 0x80, &[0, 0, 0, 0x80]);
    assert_eq!(open(&far_doorbell).err(), Some(Error::BadLayout));
}

#[test]
fn a_device_that_does_not_cooperate_is_given_up() {
    for bus in [Bus::Mmio, Bus::Pci] {
        let stuck = machine(bus);
        stuck.state().confirm_reset = false;
        assert_eq!(open(&stuck).err(), Some(Error::Unresponsive));
        let choosy = machine(bus);
        choosy.state().refuse_features = true;
        assert_eq!(open(&choosy).err(), Some(Error::FeaturesRefused));
        assert!(choosy.state().status & STATUS_FAILED != 0);
        for size in [0, 32] {
            let short = machine(bus);
            short.state().queue_size_max = size;
            assert_eq!(open(&short).err(), Some(Error::NoQueue));
            assert!(short.state().status & STATUS_FAILED != 0);
        }
    }
}

#[test]
fn vectors_are_set_and_checked() {
    let machine_1 = machine(Bus::Pci);
    let with = |machine: &Machine, interrupts| {
        Console::open(transport(machine).unwrap(), interrupts, machine.memory()).map(drop)
    };
    assert_eq!(with(&machine_1, Interrupts::Vector(1)), Ok(()));
    assert_eq!(machine_1.state().config_vector, 1);
    assert!(machine_1.state().queues[..2].iter().all(|queue| queue.vector == 1));
    assert_eq!(with(&machine(Bus::Pci), Interrupts::Vector(2)), Err(Error::NoVector));
    assert_eq!(with(&machine(Bus::Mmio), Interrupts::Vector(0)), Err(Error::NoVector));
}

#[test]
fn with_several_ports_port_1_is_opened_when_it_is_named() {
    let machine = Machine::new(Bus::Mmio, CONSOLE, MEMORY_BYTES, VERSION_1 | EVENT_INDEX | MULTIPORT);
    let mut console = open(&machine).unwrap();
    assert_eq!(console.port(), Port::Unnamed);
    assert_eq!(console.try_write(b"early"), Ok(0));
    let turn = |console: &mut Console<Window, Memory>| {
        while machine.state().control() {}
        assert!(std::mem::take(&mut machine.state().interrupt));
        console.on_interrupt()
    };
    assert_eq!(turn(&mut console), Ok(()));
    assert_eq!(turn(&mut console), Ok(()));
    assert!(machine.state().open);
    assert_eq!(console.port(), Port::Open);
    assert_eq!(console.try_write(b"late"), Ok(4));
    assert_eq!(machine.state().transmit().unwrap(), b"late");
    for size in 0..100 {
        machine.state().say(0, 5, size);
        assert_eq!(turn(&mut console), Ok(()), "other ports are not ours");
    }
    machine.state().say(1, 2, 1);
    assert_eq!(turn(&mut console), Err(Error::NoPort));
    assert_eq!(console.try_write(b"x"), Err(Error::NoPort));
}

#[test]
fn without_port_1_port_0_can_be_used() {
    for (ports, found) in [(&[][..], Port::Unnamed), (&[7], Port::Unnamed), (&[7, 0], Port::UnnamedButZero)] {
        let machine = Machine::new(Bus::Pci, CONSOLE, MEMORY_BYTES, VERSION_1 | EVENT_INDEX | MULTIPORT);
        machine.state().ports = ports.to_vec();
        let mut console = open(&machine).unwrap();
        while machine.state().control() {}
        console.on_interrupt().unwrap();
        assert_eq!((console.port(), console.try_write(b"nobody")), (found, Ok(0)));
        let mut console = console.reopen_with_port_0().unwrap();
        assert_eq!(machine.state().accepted & MULTIPORT, 0);
        assert_eq!((console.port(), console.try_write(b"port 0")), (Port::Open, Ok(6)));
        assert_eq!(machine.state().transmit().unwrap(), b"port 0");
    }
}

#[test]
fn memory_that_is_too_small_is_refused() {
    let machine = Machine::new(Bus::Mmio, CONSOLE, MEMORY_BYTES - 1, VERSION_1);
    assert_eq!(open(&machine).err(), Some(Error::BadMemory));
}

#[test]
fn the_devices_own_configuration_is_read_at_its_width_and_not_beyond() {
    for (bus, length) in [(Bus::Mmio, 0x100), (Bus::Pci, 0x1000)] {
        let machine = machine(bus);
        let transport = transport(&machine).unwrap();
        assert_eq!(transport.config8(1), Ok(0x11));
        assert_eq!(transport.config16(2), Ok(0x1312));
        assert_eq!(transport.config32(4), Ok(0x1716_1514));
        assert_eq!(transport.config_generation(), 7);
        assert_eq!(transport.config32(length - 4), Ok(0));
        assert_eq!(transport.config32(length), Err(Error::BadLayout));
        assert_eq!(transport.config32(2), Err(Error::BadLayout), "not aligned");
        assert_eq!(transport.config8(usize::MAX), Err(Error::BadLayout));
    }
}
