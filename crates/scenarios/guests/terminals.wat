;; Exits with a bit for each standard stream that says it is a terminal: fd_fdstat_get's file type is
;; character_device (2), and neither seek nor tell are among the rights.
(module
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fdstat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func $bit (param $fd i32) (result i32)
    (if (call $fdstat (local.get $fd) (i32.const 64)) (then (call $exit (i32.const 99))))
    (if (result i32)
      (i32.and
        (i32.eq (i32.load8_u (i32.const 64)) (i32.const 2))
        (i64.eqz (i64.and (i64.load (i32.const 72)) (i64.const 36))))
      (then (i32.shl (i32.const 1) (local.get $fd)))
      (else (i32.const 0))))
  (func (export "_start")
    (call $exit
      (i32.or
        (call $bit (i32.const 0))
        (i32.or (call $bit (i32.const 1)) (call $bit (i32.const 2)))))))
