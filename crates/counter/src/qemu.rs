//! QEMU's interface for plugins, version 1 (QEMU's documentation, "QEMU TCG Plugins"): as much of it as is needed.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// The version of the interface. QEMU looks at this before anything else and refuses what it does not speak.
// SAFETY: the name that QEMU looks for; it is reserved for this.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "QEMU's name")]
pub static qemu_plugin_version: c_int = 1;

/// Which plugin this is.
pub type Id = u64;

/// A piece of code that is about to be translated.
#[repr(C)]
pub struct Block {
    private: [u8; 0],
}

/// One of its instructions.
#[repr(C)]
pub struct Instruction {
    private: [u8; 0],
}

/// What QEMU says of itself (`qemu_info_t`).
#[repr(C)]
pub struct Info {
    /// The architecture's name.
    pub target: *const c_char,
    /// The oldest interface that it speaks, and the newest.
    pub versions: [c_int; 2],
    /// A machine, and not a process.
    pub is_system: bool,
    /// The CPUs of the machine, and how many there can be.
    pub cpus: [c_int; 2],
}

/// A callback may not look at registers (`QEMU_PLUGIN_CB_NO_REGS`).
pub const NO_REGISTERS: c_int = 0;

/// Called by the CPU of that number.
pub type OnCpu = extern "C" fn(cpu: c_uint, data: *mut c_void);

unsafe extern "C" {
    #[link_name = "qemu_plugin_register_vcpu_tb_trans_cb"]
    pub fn on_translation(plugin: Id, call: extern "C" fn(plugin: Id, block: *mut Block));
    #[link_name = "qemu_plugin_tb_n_insns"]
    pub fn instruction_count(block: *const Block) -> usize;
    #[link_name = "qemu_plugin_tb_get_insn"]
    pub fn instruction(block: *const Block, index: usize) -> *mut Instruction;
    #[link_name = "qemu_plugin_insn_data"]
    pub fn bytes(instruction: *const Instruction) -> *const u8;
    #[link_name = "qemu_plugin_insn_size"]
    pub fn length(instruction: *const Instruction) -> usize;
    #[link_name = "qemu_plugin_insn_vaddr"]
    pub fn address(instruction: *const Instruction) -> u64;
    #[link_name = "qemu_plugin_register_vcpu_insn_exec_cb"]
    pub fn before_execution(instruction: *mut Instruction, call: OnCpu, flags: c_int, data: *mut c_void);
    #[link_name = "qemu_plugin_register_atexit_cb"]
    pub fn at_exit(plugin: Id, call: extern "C" fn(plugin: Id, data: *mut c_void), data: *mut c_void);
}
