;; Reads the monotonic clock 100,000 times and traps if it ever goes back or stands still throughout. Then writes the
;; time of day, in ns since 1970, as eight little-endian bytes.
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)

  (func $time (param $clock i32) (result i64)
    (if (call $clock_time_get (local.get $clock) (i64.const 1) (i32.const 64)) (then (unreachable)))
    (i64.load (i32.const 64)))

  (func (export "_start") (local $left i32) (local $first i64) (local $last i64) (local $now i64)
    (local.set $left (i32.const 100000))
    (local.set $last (local.tee $first (call $time (i32.const 1))))
    (loop $again
      (local.set $now (call $time (i32.const 1)))
      (if (i64.lt_u (local.get $now) (local.get $last)) (then (unreachable)))
      (local.set $last (local.get $now))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (if (i64.eq (local.get $last) (local.get $first)) (then (unreachable)))
    (i64.store (i32.const 128) (call $time (i32.const 0)))
    (i32.store (i32.const 0) (i32.const 128))
    (i32.store (i32.const 4) (i32.const 8))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))))
