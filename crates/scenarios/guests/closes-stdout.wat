;; Closes its standard output, writes to it all the same, and then to standard error. Its status is the errno of the
;; write to what is closed (8 is EBADF).
(module
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "still here\n")
  (func (export "_start") (local $errno i32)
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 11))
    (if (call $fd_close (i32.const 1)) (then (unreachable)))
    (local.set $errno (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
    (call $proc_exit (local.get $errno))))
