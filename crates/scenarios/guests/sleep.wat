;; Waits for 1.5 s of the monotonic clock in poll_oneoff, then says how it went: the errno, the number of events, the
;; event's errno and type, a byte each, and the time that passed, in ns, as eight little-endian bytes.
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)

  (func $now (result i64)
    (if (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 256)) (then (unreachable)))
    (i64.load (i32.const 256)))

  (func (export "_start") (local $started i64)
    ;; The subscription, at 0: userdata, tag 0 (clock), clock 1 (monotonic), timeout, precision, flags 0 (relative).
    (i64.store (i32.const 0) (i64.const 0x5e1c15))
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 1500000000))
    (local.set $started (call $now))
    (i32.store8 (i32.const 128) (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 96)))
    (i64.store (i32.const 132) (i64.sub (call $now) (local.get $started)))
    (i32.store8 (i32.const 129) (i32.load (i32.const 96)))
    ;; The event, at 64: userdata, errno (2 bytes), type (1 byte).
    (if (i64.ne (i64.load (i32.const 64)) (i64.const 0x5e1c15)) (then (unreachable)))
    (i32.store8 (i32.const 130) (i32.load16_u (i32.const 72)))
    (i32.store8 (i32.const 131) (i32.load8_u (i32.const 74)))
    (i32.store (i32.const 160) (i32.const 128))
    (i32.store (i32.const 164) (i32.const 12))
    (if (call $fd_write (i32.const 1) (i32.const 160) (i32.const 1) (i32.const 168)) (then (unreachable)))))
