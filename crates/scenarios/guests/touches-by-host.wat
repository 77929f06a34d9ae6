;; Has 256 MiB and lets host functions touch them, a page at a time: a whole answer, and some bytes in the middle.
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 4096)
  (func (export "_start") (local $at i32)
    (loop $next
      (drop (call $clock (i32.const 1) (i64.const 0) (local.get $at)))
      (drop (call $random (i32.add (local.get $at) (i32.const 6000)) (i32.const 8)))
      (local.set $at (i32.add (local.get $at) (i32.const 8192)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 0x10000000))))))
