;; Writes its arguments and then its environment, each ended by a zero byte, as it got them.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (memory (export "memory") 4)

  ;; The strings lie at 0x10000; their total length is at 4.
  (func $write
    (i32.store (i32.const 8) (i32.const 0x10000))
    (i32.store (i32.const 12) (i32.load (i32.const 4)))
    (if (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)) (then (unreachable))))

  (func (export "_start")
    (if (call $args_sizes_get (i32.const 0) (i32.const 4)) (then (unreachable)))
    (if (call $args_get (i32.const 64) (i32.const 0x10000)) (then (unreachable)))
    (call $write)
    (if (call $environ_sizes_get (i32.const 0) (i32.const 4)) (then (unreachable)))
    (if (call $environ_get (i32.const 64) (i32.const 0x10000)) (then (unreachable)))
    (call $write)))
