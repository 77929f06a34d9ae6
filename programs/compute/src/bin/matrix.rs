//! Multiplies two matrices of 256 by 256 floats, four times.
#![no_std]
#![no_main]

use compute::{Holds, Numbers, check};

const SIZE: usize = 256;
const TIMES: usize = 4;

type Matrix = [[f64; SIZE]; SIZE];

static mut MATRICES: [Matrix; 3] = [[[0.0; SIZE]; SIZE]; 3];

#[unsafe(no_mangle)]
extern "C" fn _start() {
    // SAFETY: `_start` is called once in an instance, which has one thread.
    let [a, b, product] = unsafe { &mut *(&raw mut MATRICES) };
    let mut numbers = Numbers::new();
    for cell in a.iter_mut().flatten().chain(b.iter_mut().flatten()) {
        // Small integers, so that the product is exact whatever the order of the sums.
        *cell = numbers.next().map_or(0.0, |number| (number % 16) as f64);
    }
    for _ in 0..TIMES {
        multiply(a, b, product);
    }
    // The sum over a product is that of the column sums of the one times the row sums of the other.
    let column = |index: usize| a.iter().map(|row| row[index]).sum::<f64>();
    let expected: f64 =
        b.iter().enumerate().map(|(index, row)| column(index) * row.iter().sum::<f64>()).sum();
    let sum: f64 = product.iter().flatten().sum();
    check(Holds::from(sum == expected));
}

#[inline(never)]
fn multiply(a: &Matrix, b: &Matrix, product: &mut Matrix) {
    for (row, out) in a.iter().zip(product) {
        out.fill(0.0);
        for (factor, other) in row.iter().zip(b) {
            for (cell, value) in out.iter_mut().zip(other) {
                *cell += factor * value;
            }
        }
    }
}
