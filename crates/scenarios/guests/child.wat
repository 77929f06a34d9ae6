;; Started by others: does what its first argument says.
;;   0 to 9  exits with that        t  traps             s  spins for ever      z  sleeps for ever
;;   m  grows its memory until it is refused, and exits with how many pages it has
;;   w  writes arguments and environment, raw            i  exits with 10 more than what it can read
;;   d  exits with the errno of asking what descriptor 3 is
;;   c  starts another of itself, passing nothing on, and exits with the errno of that or with how that one ended
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "selkis_process" "spawn" (func $spawn (param i32 i32) (result i32)))
  (import "selkis_process" "wait" (func $wait (param i64 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "child")
  (data (i32.const 16) "child\00" "5\00")
  ;; What `c` starts: the record.
  (data (i32.const 64) "\00\00\00\00" "\05\00\00\00" "\10\00\00\00" "\08\00\00\00")

  ;; Writes `length` bytes at `at`.
  (func $write (param $at i32) (param $length i32)
    (i32.store (i32.const 200) (local.get $at))
    (i32.store (i32.const 204) (local.get $length))
    (drop (call $fd_write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 208))))

  (func (export "_start") (local $what i32) (local $errno i32)
    (drop (call $args_sizes_get (i32.const 160) (i32.const 164)))
    (drop (call $args_get (i32.const 1024) (i32.const 2048)))
    (local.set $what (i32.load8_u (i32.load (i32.const 1028))))
    (if (i32.le_u (i32.sub (local.get $what) (i32.const 48)) (i32.const 9))
      (then (call $proc_exit (i32.sub (local.get $what) (i32.const 48)))))
    (if (i32.eq (local.get $what) (i32.const 116)) (then (unreachable)))
    (if (i32.eq (local.get $what) (i32.const 115)) (then (loop $for_ever (br $for_ever))))
    (if (i32.eq (local.get $what) (i32.const 122))
      (then
        (i32.store (i32.const 320) (i32.const 0))
        (i32.store (i32.const 336) (i32.const 1))
        (i64.store (i32.const 344) (i64.const 0x7fffffffffffffff))
        (drop (call $poll_oneoff (i32.const 320) (i32.const 384) (i32.const 1) (i32.const 448)))
        (unreachable)))
    (if (i32.eq (local.get $what) (i32.const 109))
      (then
        (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (call $proc_exit (memory.size))))
    (if (i32.eq (local.get $what) (i32.const 119))
      (then
        (call $write (i32.const 2048) (i32.load (i32.const 164)))
        (drop (call $environ_sizes_get (i32.const 168) (i32.const 172)))
        (drop (call $environ_get (i32.const 4096) (i32.const 8192)))
        (call $write (i32.const 8192) (i32.load (i32.const 172)))
        (call $proc_exit (i32.const 0))))
    (if (i32.eq (local.get $what) (i32.const 105))
      (then
        (i32.store (i32.const 200) (i32.const 1024))
        (i32.store (i32.const 204) (i32.const 100))
        (drop (call $fd_read (i32.const 0) (i32.const 200) (i32.const 1) (i32.const 208)))
        (call $proc_exit (i32.add (i32.const 10) (i32.load (i32.const 208))))))
    (if (i32.eq (local.get $what) (i32.const 100))
      (then (call $proc_exit (call $fd_prestat_get (i32.const 3) (i32.const 208)))))
    (if (i32.eq (local.get $what) (i32.const 99))
      (then
        (local.set $errno (call $spawn (i32.const 64) (i32.const 208)))
        (if (local.get $errno) (then (call $proc_exit (local.get $errno))))
        (local.set $errno (call $wait (i64.load (i32.const 208)) (i64.const -1) (i32.const 216)))
        (if (local.get $errno) (then (call $proc_exit (local.get $errno))))
        (call $proc_exit (i32.load (i32.const 228)))))
    (unreachable)))
