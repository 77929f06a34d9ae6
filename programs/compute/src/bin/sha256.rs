//! SHA-256 (FIPS 180-4) of a million bytes, twenty times over.
#![no_std]
#![no_main]

use compute::{Holds, check};

const MESSAGE_BYTES: usize = 1_000_000;
const TIMES: usize = 20;
const BLOCK_BYTES: usize = 64;
/// One million times the letter a: FIPS 180-2, appendix B.3.
const DIGEST: [u32; 8] =
    [0xcdc7_6e5c, 0x9914_fb92, 0x81a1_c7e2, 0x84d7_3e67, 0xf180_9a48, 0xa497_200e, 0x046d_39cc, 0xc711_2cd0];

static MESSAGE: [u8; MESSAGE_BYTES] = [b'a'; MESSAGE_BYTES];

#[unsafe(no_mangle)]
extern "C" fn _start() {
    for _ in 0..TIMES {
        check(Holds::from(digest(core::hint::black_box(&MESSAGE)) == DIGEST));
    }
}

fn digest(message: &[u8]) -> [u32; 8] {
    let constants = constants();
    let mut state = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    let (blocks, rest) = message.as_chunks::<BLOCK_BYTES>();
    blocks.iter().for_each(|block| compress(&mut state, block, &constants));
    let mut last = [0; BLOCK_BYTES];
    last[..rest.len()].copy_from_slice(rest);
    last[rest.len()] = 0x80;
    if rest.len() >= BLOCK_BYTES - 8 {
        compress(&mut state, &last, &constants);
        last = [0; BLOCK_BYTES];
    }
    last[BLOCK_BYTES - 8..].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    compress(&mut state, &last, &constants);
    state
}

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes (4.2.2).
fn constants() -> [u32; 64] {
    let is_prime = |number: &u64| (2..*number).take_while(|d| d * d <= *number).all(|d| number % d != 0);
    let mut primes = (2u64..).filter(is_prime);
    core::array::from_fn(|_| primes.next().map_or(0, cube_root_fraction))
}

/// By bisection: the largest number of 2⁻³² whose cube is not above the prime.
fn cube_root_fraction(prime: u64) -> u32 {
    let (mut low, mut high) = (0u128, 8u128 << 32);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if middle * middle * middle <= u128::from(prime) << 96 { low = middle } else { high = middle }
    }
    low as u32
}

#[inline(never)]
fn compress(state: &mut [u32; 8], block: &[u8; BLOCK_BYTES], constants: &[u32; 64]) {
    let mut schedule = [0u32; 64];
    let (words, _) = block.as_chunks::<4>();
    for (place, word) in schedule.iter_mut().zip(words) {
        *place = u32::from_be_bytes(*word);
    }
    for t in 16..64 {
        let (w15, w2) = (schedule[t - 15], schedule[t - 2]);
        let small0 = w15.rotate_right(7) ^ w15.rotate_right(18) ^ (w15 >> 3);
        let small1 = w2.rotate_right(17) ^ w2.rotate_right(19) ^ (w2 >> 10);
        schedule[t] =
            schedule[t - 16].wrapping_add(small0).wrapping_add(schedule[t - 7]).wrapping_add(small1);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (constant, word) in constants.iter().zip(schedule) {
        let big1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let first = h.wrapping_add(big1).wrapping_add(choice).wrapping_add(*constant).wrapping_add(word);
        let big0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        (h, g, f, e) = (g, f, e, d.wrapping_add(first));
        (d, c, b, a) = (c, b, a, first.wrapping_add(big0.wrapping_add(majority)));
    }
    for (place, value) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *place = place.wrapping_add(value);
    }
}
