;; Writes to its memory, a page of 4 KiB at a time, itself or by a function of its host's, and gives way after each; grows it as far as it may, says
;; that it has all, and goes on giving way.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 128) "full\n")
  (func (export "_start") (local $at i32)
    (loop $next
      (if (i32.and (local.get $at) (i32.const 4096))
        (then (drop (call $random_get (local.get $at) (i32.const 8))))
        (else (i32.store (local.get $at) (i32.const 1))))
      (drop (call $sched_yield))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $next (i32.lt_u (local.get $at) (i32.shl (memory.size) (i32.const 16))))
      (br_if $next (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (i32.store (i32.const 0) (i32.const 128))
    (i32.store (i32.const 4) (i32.const 5))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (loop $for_ever (br_if $for_ever (i32.eqz (call $sched_yield))))))
