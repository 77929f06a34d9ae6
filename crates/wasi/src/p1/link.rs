//! The functions as a wasmtime linker's.

use super::children::for_each_process_function;
use super::functions::for_each_function;
use super::{Memory, State};
use crate::provider::Host;
use crate::{Error, Exit, Result, Stopped};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use wasmtime::{Caller, Extern, ImportType, Linker, Module};

/// The modules that programs import the functions from.
const PREVIEW_1: &str = "wasi_snapshot_preview1";
const PROCESS: &str = "selkis_process";

/// The most bytes of a function's name.
const NAME_BYTES_MAX: usize = 64;

/// A module, and a name in it.
type Name<'p> = (&'p str, &'p str);

/// Names that a program imports, with their modules.
type Wanted<'p> = BTreeSet<Name<'p>>;

/// Defines all functions of `wasi_snapshot_preview1` and of `selkis_process` for programs whose store data holds a [`State`],
/// which `access` finds.
///
/// A call leaves the program with an error only as [`Stopped`] or [`Exit`].
///
/// Answers with the program's imports that are none of these functions, as they are in it: of any length.
///
/// # Errors
/// If the linker has one of the names already.
pub fn add_to_linker<'p, T, H>(
    linker: &mut Linker<T>,
    program: &'p Module,
    access: impl Fn(&mut T) -> &mut State<H> + Copy + Send + Sync + 'static,
) -> wasmtime::Result<Vec<(&'p str, &'p str)>>
where
    T: 'static,
    H: Host + 'static,
{
    let mut wanted: Wanted<'_> = program.imports().map(name).filter(may_be_ours).collect();
    add_preview_1(linker, &mut wanted, access)?;
    add_process(linker, &mut wanted, access)?;
    if wanted.remove(&(PREVIEW_1, "proc_exit")) {
        linker.func_wrap(PREVIEW_1, "proc_exit", move |status: u32| -> wasmtime::Result<()> {
            Err(wasmtime::Error::new(Exit(status)))
        })?;
    }
    let is_unserved = |import: &Name<'_>| !may_be_ours(import) || wanted.contains(import);
    Ok(program.imports().map(name).filter(is_unserved).collect())
}

fn name<'p>(import: ImportType<'p>) -> Name<'p> {
    (import.module(), import.name())
}

/// Whether it may be one of the functions here. What cannot be is not compared with anything: the same names of any length may come as often
/// as a program likes.
fn may_be_ours((module, name): &Name<'_>) -> bool {
    [PREVIEW_1, PROCESS].contains(module) && name.len() <= NAME_BYTES_MAX
}

/// A function `$add` that defines those functions of `$module` that are wanted.
macro_rules! link_functions {
    ($add:ident, $module:expr; $($name:ident($($parameter:ident: $type:ty),*);)*) => {
        fn $add<T, H>(
            linker: &mut Linker<T>,
            wanted: &mut Wanted<'_>,
            access: impl Fn(&mut T) -> &mut State<H> + Copy + Send + Sync + 'static,
        ) -> wasmtime::Result<()>
        where
            T: 'static,
            H: Host + 'static,
        {
            $(
                const { assert!(stringify!($name).len() <= NAME_BYTES_MAX) };
                if wanted.remove(&($module, stringify!($name))) {
                    linker.func_wrap(
                        $module,
                        stringify!($name),
                        move |mut caller: Caller<'_, T>, $($parameter: $type),*| -> wasmtime::Result<u32> {
                            enter(&mut caller, access, |state, memory| state.$name(memory, $($parameter),*))
                        },
                    )?;
                }
            )*
            Ok(())
        }
    };
}

macro_rules! link_preview_1 {
    ($($functions:tt)*) => { link_functions!(add_preview_1, PREVIEW_1; $($functions)*); };
}
macro_rules! link_process {
    ($($functions:tt)*) => { link_functions!(add_process, PROCESS; $($functions)*); };
}
for_each_function!(link_preview_1);
for_each_process_function!(link_process);

/// Runs one function on the caller's memory and state. A program that exports no memory has an empty one:
/// every pointer of it is bad.
fn enter<T: 'static, H: Host>(
    caller: &mut Caller<'_, T>,
    access: impl Fn(&mut T) -> &mut State<H>,
    function: impl FnOnce(&mut State<H>, &mut Memory<'_>) -> Result<()>,
) -> wasmtime::Result<u32> {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    let (bytes, data) = match &memory {
        Some(memory) => memory.data_and_store_mut(&mut *caller),
        None => (&mut [][..], caller.data_mut()),
    };
    let state = access(data);
    let result = state.enter().and_then(|()| function(state, &mut Memory::new(bytes)));
    match state.leave().and(result) {
        Ok(()) => Ok(0),
        Err(Error::Errno(errno)) => Ok(u32::from(errno.code())),
        Err(Error::Stopped) => Err(wasmtime::Error::new(Stopped)),
    }
}
