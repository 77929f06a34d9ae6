;; start-grows LETTER: asks for more memory than it may have, in the start function, which instantiation runs. Refused, it goes on as it is told:
;;   t  traps      e  exits with 3      s  spins for ever
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)

  (func $traps_at_its_start (unreachable))
  (func $is (param $letter i32) (result i32)
    (i32.eq (i32.load8_u (i32.load (i32.const 4))) (local.get $letter)))
  (func $start
    (if (i32.ne (memory.grow (i32.const 0x4000)) (i32.const -1)) (then (return)))
    (drop (call $args_get (i32.const 0) (i32.const 64)))
    (if (call $is (i32.const 116)) (then (call $traps_at_its_start)))
    (if (call $is (i32.const 101)) (then (call $proc_exit (i32.const 3))))
    (loop $for_ever (br $for_ever)))
  (start $start)
  (func (export "_start")))
