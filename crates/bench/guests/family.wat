;; With a number as its second argument it starts itself so often without arguments, each time when the one before has ended: then it prints
;; "hello, world", as `hello` does.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "selkis_process" "spawn" (func $spawn (param i32 i32) (result i32)))
  (import "selkis_process" "wait" (func $wait (param i64 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\0d\00\00\00")
  (data (i32.const 16) "hello, world\n")
  (data (i32.const 32) "itself")
  (data (i32.const 64) "\20\00\00\00" "\06\00\00\00")

  (func $must (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))

  (func (export "_start") (local $at i32) (local $left i32)
    (call $must (call $args_sizes_get (i32.const 160) (i32.const 164)))
    (if (i32.lt_u (i32.load (i32.const 160)) (i32.const 3))
      (then
        (call $must (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (return)))
    (call $must (call $args_get (i32.const 1024) (i32.const 2048)))
    (local.set $at (i32.load (i32.const 1032)))
    (loop $digit
      (local.set $left
        (i32.add (i32.mul (local.get $left) (i32.const 10)) (i32.sub (i32.load8_u (local.get $at)) (i32.const 48))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $digit (i32.load8_u (local.get $at))))
    (loop $again
      (call $must (call $spawn (i32.const 64) (i32.const 208)))
      (call $must (call $wait (i64.load (i32.const 208)) (i64.const -1) (i32.const 216)))
      ;; Cause and status.
      (call $must (i32.or (i32.load (i32.const 224)) (i32.load (i32.const 228))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))))
