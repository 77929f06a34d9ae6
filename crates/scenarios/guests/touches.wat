;; Writes to each page of its 192 KiB in turn, and lets others run after each; then exits with 7.
(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 3)
  (func (export "_start") (local $at i32) (local $left i32)
    (loop $next
      (i32.store (local.get $at) (i32.const 7))
      (drop (call $sched_yield))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 0x30000))))
    ;; So that all have what they have at the same time.
    (local.set $left (i32.const 200))
    (loop $again
      (drop (call $sched_yield))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (call $proc_exit (i32.const 7))))
