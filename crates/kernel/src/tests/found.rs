//! What the fuzzer found, as it printed it.

use super::action::Act::*;
use super::action::step;
use super::hostile::run;

/// CPU 2 was asked to take two that CPU 1 could not run, and took one: nobody told CPU 1 that the other still waits.
#[test]
fn what_a_cpu_does_not_take_is_not_forgotten() {
    run(
        &[
            step(0, Spawn, [0, 100, 0, 93, 0, 1]),
            step(0, Map, [3, 0, 0, 24, 0, 0]),
            step(1, Unmap, [0, 22, 0, 0, 0, 0]),
            step(0, Spawn, [0, 100, 0, 93, 0, 2]),
            step(2, Raw, [0, 0, 0, 0, 0, 0]),
            step(1, Sweep, [0, 0, 0, 0, 0, 0]),
        ],
        false,
    );
}

/// One virtual CPU waits for a capability to be free, another gives that capability itself back.
#[test]
fn who_revokes_a_capability_learns_that_it_is_gone() {
    run(
        &[
            step(0, CreateVcpu, [0, 0, 0, 0, 0, 0]),
            step(0, Start, [0, 0, 0, 0, 0, 0]),
            step(0, CreateMemory, [0, 0, 0, 0, 0, 0]),
            step(0, Derive, [0, 0, 0, 0, 0, 0]),
            step(0, Derive, [0, 0, 0, 0, 0, 0]),
            step(0, Revoke, [0, 0xc0, 0, 0, 0, 0]),
            step(1, Release, [1, 0, 0, 0, 0, 0]),
        ],
        false,
    );
}

/// Two virtual CPUs wait for the same capability to be free; a third frees it.
#[test]
fn all_who_revoke_a_capability_are_woken() {
    run(
        &[
            step(0, CreateVcpu, [0, 0, 0, 0, 0, 0]),
            step(0, Start, [0, 0, 0, 0, 0, 0]),
            step(0, CreateVcpu, [0, 0, 0, 0, 0, 0]),
            step(0, Start, [0, 0, 0, 0, 0, 0]),
            step(0, CreateMemory, [0, 0, 0, 0, 0, 0]),
            step(0, Derive, [0, 0, 0, 0, 0, 0]),
            step(0, Derive, [0, 0, 0, 0, 0, 0]),
            step(0, Revoke, [0, 0xc0, 0, 0, 0, 0]),
            step(1, Revoke, [0, 0xc0, 0, 0, 0, 0]),
            step(2, Release, [0, 0, 0, 0, 0, 0]),
        ],
        false,
    );
}

/// One that has used its budget up and sleeps is woken while its CPU sleeps as well, until for ever.
#[test]
fn a_cpu_knows_when_the_budget_of_who_is_woken_is_renewed() {
    run(
        &[
            step(0, Spawn, [0, 100, 247, 93, 13, 2]),
            step(1, CreateEvent, [0, 0, 0, 0, 0, 0]),
            step(0, Wait, [0, 177, 0, 0, 0, 0]),
            step(0, Pass, [13, 0, 0, 0, 0, 0]),
            step(1, Alarm, [0, 0, 0, 0, 0, 0]),
            step(0, Revoke, [0, 203, 0, 0, 0, 0]),
            step(0, Listen, [1, 0, 0, 2, 0, 0]),
            step(0, Interrupt, [0, 0, 0, 0, 0, 0]),
            step(2, Map, [0, 0, 0, 0, 0, 0]),
            step(1, Map, [0, 0, 0, 0, 0, 0]),
        ],
        false,
    );
}

/// One that waits comes to lead the one that runs because that goes on: it is not woken, and waits for the end of the slice.
#[test]
fn a_slice_is_as_long_as_it_was_when_it_began() {
    run(
        &[
            step(0, CreateVcpu, [0, 0, 0, 0, 0, 0]),
            step(0, CreateVcpu, [0, 0, 0, 0, 0, 0]),
            step(0, Start, [0, 0, 0, 0, 0, 0]),
            step(1, Spawn, [0, 161, 0, 0, 187, 93]),
            step(0, Grant, [0, 0, 0, 3, 0, 0]),
            step(0, Spawn, [0, 100, 247, 93, 13, 2]),
            step(0, CreateVcpu, [0, 0, 0, 0, 0, 0]),
            step(0, Spawn, [0, 100, 0, 93, 33, 2]),
            step(0, Wait, [0, 192, 0, 0, 0, 0]),
            step(0, Pass, [12, 0, 0, 0, 0, 0]),
            step(1, Alarm, [0, 0, 0, 0, 0, 0]),
            step(2, Alarm, [0, 0, 0, 0, 0, 0]),
            step(0, Alarm, [0, 0, 0, 0, 0, 0]),
            step(0, Pass, [13, 0, 0, 0, 0, 0]),
            step(1, Alarm, [0, 0, 0, 0, 0, 0]),
            step(2, Wait, [0, 0, 0, 0, 0, 0]),
            step(0, Pass, [10, 0, 0, 0, 0, 0]),
            step(0, Start, [28, 0, 0, 0, 0, 0]),
            step(2, Reset, [0, 0, 0, 0, 0, 0]),
            step(1, CreateChannel, [0, 0, 0, 0, 0, 0]),
        ],
        false,
    );
}

/// Of two that wait in one queue the CPU that takes the first may not run the second: the queue's own is told of that.
#[test]
fn who_is_left_by_a_cpu_that_took_another_is_not_forgotten() {
    run(
        &[
            step(0, CreateVcpu, [0, 0, 0, 0, 0, 0]),
            step(0, Start, [0, 0, 0, 0, 0, 0]),
            step(1, Interrupt, [0, 0, 0, 0, 0, 0]),
            step(0, Wait, [0, 80, 0, 0, 0, 0]),
            step(0, Spawn, [0, 6, 247, 0, 0, 1]),
            step(0, Derive, [0, 0, 0, 0, 0, 0]),
            step(0, Revoke, [0, 192, 0, 0, 0, 0]),
            step(0, CreateEvent, [0, 0, 0, 0, 0, 0]),
            step(0, Revoke, [0, 192, 0, 0, 0, 0]),
            step(0, Pass, [237, 0, 0, 0, 0, 0]),
            step(1, Spawn, [0, 212, 0, 157, 103, 7]),
            step(0, Signal, [0, 0, 0, 0, 0, 0]),
            step(2, Interrupt, [0, 0, 0, 0, 0, 0]),
            step(0, Listen, [0, 0, 0, 0, 0, 0]),
        ],
        false,
    );
}

/// Two wake for one CPU by their deadlines while others sleep, which nobody told.
#[test]
fn who_waits_beside_one_that_runs_is_shown_to_who_sleeps() {
    run(
        &[
            step(0, CreateVcpu, [0, 0, 0, 0, 0, 0]),
            step(0, Start, [0, 0, 0, 0, 0, 0]),
            step(0, Wait, [0, 80, 0, 0, 0, 0]),
            step(0, Wait, [0, 80, 0, 0, 0, 0]),
            step(1, Pass, [12, 0, 0, 0, 0, 0]),
            step(0, Revoke, [0, 0, 0, 0, 0, 0]),
        ],
        false,
    );
}
