use super::functions::for_each_function;
use super::{Memory, State};
use crate::Result;
use crate::provider::Host;
use alloc::vec::Vec;

/// A core value as a parameter.
trait FromRaw {
    fn from_raw(raw: u64) -> Self;
}

impl FromRaw for u32 {
    fn from_raw(raw: u64) -> Self {
        raw as u32
    }
}

impl FromRaw for u64 {
    fn from_raw(raw: u64) -> Self {
        raw
    }
}

impl FromRaw for i64 {
    fn from_raw(raw: u64) -> Self {
        raw as i64
    }
}

macro_rules! call_functions {
    ($($name:ident($($parameter:ident: $type:ty),*);)*) => {
        /// The functions by name, with the names of their parameters.
        fn functions() -> Vec<(&'static str, &'static [&'static str])> {
            alloc::vec![$((stringify!($name), &[$(stringify!($parameter)),*] as &[&str])),*]
        }

        /// Calls a function as the linked one would: through the checkpoint.
        fn call<H: Host>(
            state: &mut State<H>,
            memory: &mut [u8],
            name: &str,
            parameters: &[u64],
        ) -> Result<()> {
            state.enter()?;
            let mut raw = parameters.iter().copied();
            let mut next = || raw.next().expect("as many as the function has");
            match name {
                $(stringify!($name) => {
                    $(let $parameter = <$type>::from_raw(next());)*
                    state.$name(&mut Memory::new(memory), $($parameter),*)
                })*
                _ => panic!("no function {name}"),
            }
        }
    };
}

for_each_function!(call_functions);

#[test]
fn all_46_functions_are_there() {
    // All of the list, and proc_exit.
    assert_eq!(functions().len() + 1, 46);
}
