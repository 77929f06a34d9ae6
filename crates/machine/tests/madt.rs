//! Tables of CPUs as firmware lays them, whole and damaged.

#[path = "../src/madt.rs"]
mod madt;

use madt::{IoApicRecord, adds_up, cpus, io_apics, mp_cpus, mp_length, mp_table, word};

fn madt(entries: &[&[u8]]) -> Vec<u8> {
    let mut table = vec![0; 44];
    table[..4].copy_from_slice(b"APIC");
    entries.iter().for_each(|entry| table.extend(*entry));
    table
}

const CPU_3: &[u8] = &[0, 8, 1, 3, 1, 0, 0, 0];
const CPU_4_DISABLED: &[u8] = &[0, 8, 2, 4, 2, 0, 0, 0];
const CPU_500: &[u8] = &[9, 16, 0, 0, 0xf4, 1, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0];
const IO_APIC: &[u8] = &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 24, 0, 0, 0];

#[test]
fn a_madt_is_read() {
    let table = madt(&[CPU_3, IO_APIC, CPU_4_DISABLED, CPU_500]);
    assert_eq!(cpus(&table).collect::<Vec<_>>(), [3, 500]);
    let expected = IoApicRecord { address: 0xfec0_0000, first_interrupt: 24 };
    assert_eq!(io_apics(&table).collect::<Vec<_>>(), [expected]);
}

#[test]
fn a_cut_madt_ends_early() {
    let table = madt(&[CPU_3, CPU_500, IO_APIC]);
    for length in 0..table.len() {
        let (cpus, io_apics) = (cpus(&table[..length]).count(), io_apics(&table[..length]).count());
        assert!(cpus == usize::from(length >= 52) + usize::from(length >= 68) && io_apics == 0, "{length}");
    }
    assert_eq!(cpus(&madt(&[CPU_3, &[0, 0], CPU_3])).count(), 1, "an entry without length");
    assert_eq!(cpus(&madt(&[&[0, 4, 1, 3], CPU_3])).collect::<Vec<_>>(), [3], "an entry that is too short");
}

fn with_sum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] = 0;
    bytes[at] = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
    bytes
}

#[test]
fn an_mp_table_is_found_and_read() {
    let mut pointer = b"_MP_\x00\x00\x0f\x00\x01\x04\x00".to_vec();
    pointer.resize(16, 0);
    let area = [vec![0; 32], with_sum(pointer.clone(), 10), vec![7; 16]].concat();
    assert_eq!(mp_table(&area), Some(0xf0000));
    pointer[10] = 1;
    assert_eq!(mp_table(&pointer), None, "damaged");

    let mut table = vec![0; 44];
    table[..4].copy_from_slice(b"PCMP");
    for (id, flags) in [(0, 3), (1, 1), (2, 0)] {
        table.extend([0, id, 0x14, flags]);
        table.extend([0; 16]);
    }
    table.extend([1, 0, b'P', b'C', b'I', 0, 0, 0]);
    table[4..6].copy_from_slice(&(44u16 + 60 + 8).to_le_bytes());
    let table = with_sum(table, 7);
    assert!(adds_up(&table) && word(&table, 0).is_some());
    assert_eq!(mp_length(&table), Some(table.len()));
    assert_eq!(mp_cpus(&table).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(mp_cpus(&table[..60]).count(), 0, "cut");
}
