;; Writes to standard output and error in turn, so that a mix-up of the two shows.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "out 1\n")
  (data (i32.const 72) "err 1\n")
  (data (i32.const 80) "out 2\n")
  (data (i32.const 88) "err 2\n")

  (func $write (param $fd i32) (param $text i32)
    (i32.store (i32.const 0) (local.get $text))
    (i32.store (i32.const 4) (i32.const 6))
    (if (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable))))

  (func (export "_start")
    (call $write (i32.const 1) (i32.const 64))
    (call $write (i32.const 2) (i32.const 72))
    (call $write (i32.const 1) (i32.const 80))
    (call $write (i32.const 2) (i32.const 88))))
