;; Spends its time in the system: an endless loop over a call, and over growing memory by nothing.
(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $for_ever
      (drop (call $sched_yield))
      (drop (memory.grow (i32.const 0)))
      (br $for_ever))))
