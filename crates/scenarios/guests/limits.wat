;; Exits with 0 if memories and tables share one limit of 16 MiB, and only what was granted counts.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1 4)
  (table $a 0 funcref)
  (table $b 0 externref)
  (func (export "_start") (local $tries i32)
    ;; Beyond its own maximum a memory never grows, and that costs nothing.
    (loop $again
      (if (i32.ne (memory.grow (i32.const 200)) (i32.const -1)) (then (call $exit (i32.const 1))))
      (local.set $tries (i32.add (local.get $tries) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $tries) (i32.const 100))))
    ;; 8 MiB of table elements fit, and as much again does not.
    (if (i32.ne (table.grow $a (ref.null func) (i32.const 0x100000)) (i32.const 0)) (then (call $exit (i32.const 2))))
    (if (i32.ne (table.grow $b (ref.null extern) (i32.const 0x100000)) (i32.const -1)) (then (call $exit (i32.const 3))))
    (if (i32.ne (memory.grow (i32.const 3)) (i32.const 1)) (then (call $exit (i32.const 4))))))
