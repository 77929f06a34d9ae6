//! The kernel that both executables are.

pub mod entry;
pub mod expect;
pub mod machine;
pub mod memory;
pub mod processors;
pub mod protocol;
pub mod responses;
pub mod state;
pub mod walk;

/// Called on the loader's stack with the machine as it was at entry.
extern "C" fn run(state: &state::EntryState) -> ! {
    let expected = expect::Expected::from_command_line(responses::command_line());
    let facts = responses::Facts::collect(&expected);
    state.check(&facts);
    memory::check(&facts, &expected, state);
    responses::check(&facts, &expected);
    machine::check_interrupt_controllers(&facts);
    processors::check(&facts, &expected, state);
    machine::pass(state.time_stamp)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    machine::fail(format_args!("{info}"))
}

/// Ends the test with a message unless a condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            $crate::kernel::machine::fail(format_args!($($message)*))
        }
    };
}
