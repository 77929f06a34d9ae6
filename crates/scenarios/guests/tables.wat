;; Grows its tables by 100 elements in turn until neither gets more; then writes how long they are together, as four little-endian
;; bytes, and traps.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (table $a 0 funcref)
  (table $b 0 externref)
  (func $beyond_its_limit (unreachable))
  (func (export "_start")
    (loop $next
      (br_if $next (i32.ne (table.grow $a (ref.null func) (i32.const 100)) (i32.const -1)))
      (br_if $next (i32.ne (table.grow $b (ref.null extern) (i32.const 100)) (i32.const -1))))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 4))
    (i32.store (i32.const 16) (i32.add (table.size $a) (table.size $b)))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
    (call $beyond_its_limit)))
