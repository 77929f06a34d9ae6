;; Starts one `child` for each of its arguments, which is that one's; writes a line when all run, and one with the cause of each end, E and its
;; number. When none is left it exits with 0; if one cannot be started, with the errno.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "selkis_process" "spawn" (func $spawn (param i32 i32) (result i32)))
  (import "selkis_process" "wait" (func $wait (param i64 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "child")
  (data (i32.const 16) "x\00?\00")
  (data (i32.const 32) "ready\nE?\n")
  ;; The record, and what it holds in any case.
  (data (i32.const 64) "\00\00\00\00" "\05\00\00\00" "\10\00\00\00" "\04\00\00\00")

  (func $write (param $at i32) (param $length i32)
    (i32.store (i32.const 200) (local.get $at))
    (i32.store (i32.const 204) (local.get $length))
    (if (call $fd_write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 208)) (then (unreachable))))

  (func (export "_start") (local $next i32) (local $errno i32)
    (drop (call $args_sizes_get (i32.const 160) (i32.const 164)))
    (drop (call $args_get (i32.const 1024) (i32.const 2048)))
    (local.set $next (i32.const 1))
    (block $all
      (loop $one
        (br_if $all (i32.eq (local.get $next) (i32.load (i32.const 160))))
        (i32.store8 (i32.const 18) (i32.load8_u (i32.load (i32.add (i32.const 1024) (i32.mul (local.get $next) (i32.const 4))))))
        (local.set $errno (call $spawn (i32.const 64) (i32.const 208)))
        (if (local.get $errno) (then (call $proc_exit (local.get $errno))))
        (local.set $next (i32.add (local.get $next) (i32.const 1)))
        (br $one)))
    (call $write (i32.const 32) (i32.const 6))
    (loop $ends
      (if (call $wait (i64.const 0) (i64.const -1) (i32.const 216)) (then (call $proc_exit (i32.const 0))))
      (i32.store8 (i32.const 39) (i32.add (i32.const 48) (i32.load (i32.const 224))))
      (call $write (i32.const 38) (i32.const 3))
      (br $ends))))
